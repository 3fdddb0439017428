"""Feature spaces: the maps from images to vectors in which two sets of images are compared.

A distance between feature distributions means nothing without the map that made the features, so
every space has an id, the features carry it, and the distances refuse to mix ids. Features are
taken from arrays in memory, never from files: JPEG and resizing both move the result (Parmar et al.
2022, "On Aliased Resizing and Surprising Subtleties in GAN Evaluation", arXiv:2104.11222).
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from sde_lib import rows


class Features(NamedTuple):
    """Vectors and the id of the space they live in. `values`: (N, d) float64; `probabilities` of
    classes, (N, C), where they were asked for."""

    space: str
    values: np.ndarray
    probabilities: np.ndarray | None = None


@dataclass(frozen=True)
class FeatureSpace:
    """A named map from images (N, ...), floats in [0, 1], to features (N, d) in float64.

    `id` tells two spaces of one name apart (a learnt one hashes its weights). `classify`, where the
    space comes from a classifier of the data at hand, maps the same images to labels (N,), and
    `probabilities`, where it comes from any classifier, to rows that sum to one, (N, classes).
    `both` gives features and probabilities in one pass, where that saves one.
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
    """Share of images (N, ...) that the space's classifier labels as given; how good the space is.

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
    """Images (N, ...), floats in [0, 1], as rows (N, d) of float64; refuses as `unit_batch`."""
    x = unit_batch(images)
    return rows(x).astype(np.float64)


def unit_batch(images) -> np.ndarray:
    """The images (N, ...) themselves, once it is known that they are floats in [0, 1].

    Raises:
        ValueError: not a batch, not floats, or outside [0, 1] (integers or data still scaled to
            [-1, 1] would give a plausible number of another distribution).
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
