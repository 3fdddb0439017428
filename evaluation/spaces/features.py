"""Feature spaces: the maps from images to vectors in which two sets of images are compared.

A distance between feature distributions means nothing without the map that made the features.
Every space therefore has an id, the features carry it, and the distances refuse to mix ids.
Features are taken from arrays in memory, never from image files, because JPEG and resizing both
change the result (Parmar et al. 2022, "On Aliased Resizing and Surprising Subtleties in GAN
Evaluation", arXiv:2104.11222).
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from sde_lib import rows


class Features(NamedTuple):
    """Feature vectors `values`, (N, d) float64, and the id of their space.

    `probabilities` are those of the classes, (N, C); None if they were not computed.
    """

    space: str
    values: np.ndarray
    probabilities: np.ndarray | None = None


@dataclass(frozen=True)
class FeatureSpace:
    """A named map from images (N, ...), floats in [0, 1], to features (N, d) in float64.

    `id` distinguishes two spaces of one name (a learnt space has a hash of its weights in it). Each
    of the other functions may be None. `classify` maps the same images to labels (N,), if the space
    comes from a classifier of the data. `probabilities` maps them to rows that sum to one, (N,
    classes), if the space comes from any classifier. `both` returns features and probabilities in
    one pass, if that saves work.
    """

    name: str
    id: str
    extract: Callable[[np.ndarray], np.ndarray]
    classify: Callable[[np.ndarray], np.ndarray] | None = None
    probabilities: Callable[[np.ndarray], np.ndarray] | None = None
    both: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]] | None = None

    def __call__(self, images) -> Features:
        return Features(self.id, self.extract(images))

    def with_probabilities(self, images) -> Features:
        if self.both is not None:
            return Features(self.id, *self.both(images))
        return Features(self.id, self.extract(images), self.probabilities(images))


def pixels() -> FeatureSpace:
    """The image itself, flattened: (N, H, W, C) to (N, H W C)."""
    return FeatureSpace("pixels", "pixels", flatten_unit)


def accuracy(space: FeatureSpace, images, labels) -> float:
    """Share of images (N, ...) whose label the space's classifier gets right.

    Raises:
        ValueError: the space has no classifier.
    """
    if space.classify is None:
        raise ValueError(
            f"feature space {space.id!r} has no classifier, so it has no accuracy; "
            "use one made by fit_classifier"
        )
    return float(np.mean(space.classify(images) == np.asarray(labels)))


def flatten_unit(images) -> np.ndarray:
    """Return images (N, ...), floats in [0, 1], as rows (N, d), float64.

    Raises:
        ValueError: as `unit_batch`.
    """
    x = unit_batch(images)
    return rows(x).astype(np.float64)


def unit_batch(images) -> np.ndarray:
    """Check that images (N, ...) are floats in [0, 1], and return them.

    Raises:
        ValueError: not a batch, not floats, or outside [0, 1]. Integers, or data still scaled to
            [-1, 1], would give a plausible but wrong distance.
    """
    x = np.asarray(images)
    if x.ndim < 2 or not np.issubdtype(x.dtype, np.floating):
        raise ValueError(
            f"images have shape {x.shape} and dtype {x.dtype}; features need a batch (N, ...) of "
            "floats in [0, 1]: divide integer levels by the highest level"
        )
    # The comparison is written so that a NaN fails it too; float32 scalers may round past the edge.
    if x.size and not (x.min() >= -1e-6 and x.max() <= 1 + 1e-6):
        raise ValueError(
            f"image values span [{x.min():.4g}, {x.max():.4g}]; features need [0, 1]: apply the "
            "data's inverse scaler and clip before extracting"
        )
    return x


def hash_weights(arrays) -> str:
    """Twelve hex digits of SHA-256 over shapes and values rounded to six decimals."""
    digest = hashlib.sha256()
    for array in arrays:
        rounded = np.round(np.asarray(array, "<f8"), 6) + 0.0  # -0.0 and 0.0 must hash alike
        digest.update(str(rounded.shape).encode() + rounded.tobytes())
    return digest.hexdigest()[:12]
