"""Handwritten digits of scikit-learn: 1797 grey images of 8x8 pixels that need no download.

E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten Digits", UCI, 1998 (its test part).
A pixel counts the black points in a block of 4x4, so it has 17 levels, 0 to 16.
"""

import functools

import numpy as np

from data.order import permutation
from data.source import Source, check_split, from_array

LEVELS = 17
N_TRAIN = 1500
SPLIT_SEED = 0  # of the permutation whose first N_TRAIN entries are the training split


@functools.cache
def _images_and_labels() -> tuple[np.ndarray, np.ndarray]:
    # Imported here: the import of scikit-learn takes a second, and no other data need it.
    from sklearn.datasets import load_digits

    digits = load_digits()
    return digits.images.astype(np.uint8)[..., None], digits.target


def load(split: str) -> Source:
    """Digits, uint8 (8, 8, 1) with values 0 ... 16 and labels 0 ... 9.

    Args:
        split: "train" (1500 images) or "test" (the other 297).

    Raises:
        ValueError: for any other split.
    """
    check_split("digits", split, ("train", "test"))
    images, labels = _images_and_labels()
    order = permutation(SPLIT_SEED, 0, len(images))
    chosen = order[:N_TRAIN] if split == "train" else order[N_TRAIN:]
    return from_array("digits", split, images[chosen], labels[chosen], LEVELS)
