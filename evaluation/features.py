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
from sklearn.neural_network import MLPClassifier
from threadpoolctl import threadpool_limits

from evaluation.inception import load_inception


class Features(NamedTuple):
    """Vectors and the id of the space they live in. `values`: (N, d) float64."""

    space: str
    values: np.ndarray


@dataclass(frozen=True)
class FeatureSpace:
    """A named map from images (N, ...), floats in [0, 1], to features (N, d) in float64.

    `id` tells two spaces of one name apart (a learnt one hashes its weights). `classify`, where the
    space comes from a classifier of the data at hand, maps the same images to labels (N,), and
    `probabilities`, where it comes from any classifier, to rows that sum to one, (N, classes).
    """

    name: str
    id: str
    extract: Callable[[np.ndarray], np.ndarray]
    classify: Callable[[np.ndarray], np.ndarray] | None = None
    probabilities: Callable[[np.ndarray], np.ndarray] | None = None

    def __call__(self, images) -> Features:
        return Features(self.id, self.extract(images))


def pixels() -> FeatureSpace:
    """The image itself, flattened: (N, H, W, C) to (N, H W C)."""
    return FeatureSpace("pixels", "pixels", flatten_unit)


def fit_classifier(train_images, train_labels, *, hidden=(128, 64), seed=0) -> FeatureSpace:
    """The last hidden layer of a small perceptron trained on the given images and labels.

    The construction of the Frechet Inception distance (Heusel et al. 2017, arXiv:1706.08500) with a
    network of the data's own domain in the place of Inception, which says nothing about grey
    digits. The features are tanh(h_{L-1} W_L + b_L), (N, hidden[-1]): bounded, so that a few odd
    images cannot move the moments far (with relu the distance varied five times as much between
    sets of samples of one law). Deterministic in its arguments; `id` is a hash of the weights.

    Args:
        train_images: (N, ...) floats in [0, 1].
        train_labels: (N,) class labels.

    Raises:
        ValueError: images are not floats in [0, 1], or there is not one label an image.
    """
    x, labels = flatten_unit(train_images), np.asarray(train_labels)
    if labels.shape != (len(x),):
        raise ValueError(
            f"labels have shape {labels.shape} for {len(x)} images; a classifier needs one label "
            f"an image: pass an array of shape ({len(x)},)"
        )
    batch_size = min(128, len(x))
    network = MLPClassifier(
        hidden, activation="tanh", batch_size=batch_size, tol=1e-3, random_state=seed
    )
    # The order of a sum depends on the number of threads, and training amplifies its last bit; the
    # id must not depend on how many cores the machine has.
    with threadpool_limits(1):
        network.fit(x, labels)

    def extract(images):
        h = flatten_unit(images)
        if h.shape[1] != x.shape[1]:
            raise ValueError(
                f"images have {h.shape[1]} values each, the classifier was trained on "
                f"{x.shape[1]}: pass images of the training shape"
            )
        for weight, bias in zip(network.coefs_[:-1], network.intercepts_[:-1]):
            h = np.tanh(h @ weight + bias)
        return h

    def classify(images):
        return network.predict(flatten_unit(images))

    def probabilities(images):
        return network.predict_proba(flatten_unit(images))

    digest = hash_weights(network.coefs_ + network.intercepts_)
    return FeatureSpace("classifier", f"classifier-{digest}", extract, classify, probabilities)


def inception(name="inception", *, weights="", resize="clean") -> FeatureSpace:
    """The 2048 features of an Inception-v3 that was trained on ImageNet, for images (N, H, W, C).

    `name` 'inception' is the graph of 2015, whose distance is the one in papers; 'inception_v3' is
    torchvision's network. C is 1 or 3, grey is repeated. `id` names the network, the hash of its
    weights and the resize: `inception-2015-6726825d-clean`. Its probabilities are of ImageNet's
    classes, not of the data's; those of the Inception score (Salimans et al. 2016).

    Args:
        weights: the file with the weights, or the folder that holds it; empty for the folder
            `SCOREFIELD_WEIGHTS`, or `~/.cache/scorefield` where that is not set.
        resize: how images become 299x299: 'clean', 'legacy_tensorflow' or 'legacy_pytorch'.

    Raises:
        ValueError: the name or the resize is unknown, or the file is not what it should be.
        FileNotFoundError: there is no file with the weights.
    """
    network = load_inception(name, weights=weights, resize=resize)
    return FeatureSpace(
        name,
        network.id,
        extract=lambda images: network.features(unit_batch(images)),
        probabilities=lambda images: network.probabilities(unit_batch(images)),
    )


FEATURE_SPACES = {
    "pixels": lambda images, labels, **options: pixels(),
    "classifier": lambda images, labels, **options: fit_classifier(images, labels),
    "inception": lambda images, labels, **options: inception("inception", **options),
    "inception_v3": lambda images, labels, **options: inception("inception_v3", **options),
}


def feature_space(
    name: str, train_images, train_labels, *, weights: str = "", resize: str = "clean"
) -> FeatureSpace:
    """The space of that name, fitted to the training split where it has something to fit.

    `weights` and `resize` are those of `inception`; the other spaces have no use for them.
    """
    if name not in FEATURE_SPACES:
        raise ValueError(f"feature space {name!r} is unknown; choose one of {list(FEATURE_SPACES)}")
    return FEATURE_SPACES[name](train_images, train_labels, weights=weights, resize=resize)


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
    return x.reshape(len(x), -1).astype(np.float64)


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
