"""A small classifier of the data's own domain as a feature space: fitted, or read from a file.

The Frechet Inception distance (Heusel et al. 2017, arXiv:1706.08500) is computed with a network
that was trained on the data, in place of Inception, whose features are meaningless for grey digits.
The features are the last hidden layer. Its tanh bounds them, so that a few odd images cannot move
the moments far (with relu the distance varied five times as much between sets of samples of one
law).

A classifier in a file has the same id, and gives the same distances, on every machine. The file of
digits is bundled; `python -m tools.train_feature_classifier` writes others.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.special import softmax
from sklearn.neural_network import MLPClassifier
from threadpoolctl import threadpool_limits

from evaluation.metrics.statistics import read
from evaluation.spaces.features import FeatureSpace, flatten_unit, hash_weights
from evaluation.store.batches import sha256
from whole_files import put_arrays

BUNDLED = Path(__file__).parent / "weights"
DEEPEST = 10  # layers of a file at most


class Perceptron(NamedTuple):
    """A perceptron, `h_i = tanh(h_{i-1} W_i + b_i)`, with logits `h W + b` of C classes.

    `classes` (C,) are their labels, in any type.
    """

    weights: list[np.ndarray]
    biases: list[np.ndarray]
    classes: np.ndarray

    def features(self, images) -> np.ndarray:
        """Map images (N, ...) in [0, 1] to the last hidden layer, (N, d) float64.

        Raises:
            ValueError: images are not floats in [0, 1], or differ in size from those of training.
        """
        h = flatten_unit(images)
        if h.shape[1] != len(self.weights[0]):
            raise ValueError(
                f"images have {h.shape[1]} values each, the classifier was trained on "
                f"{len(self.weights[0])}: pass images of the training shape"
            )
        for weight, bias in zip(self.weights[:-1], self.biases[:-1]):
            h = np.tanh(h @ weight + bias)
        return h

    def probabilities(self, images) -> np.ndarray:
        return softmax(self.features(images) @ self.weights[-1] + self.biases[-1], axis=1)

    def classify(self, images) -> np.ndarray:
        return self.classes[self.probabilities(images).argmax(axis=1)]


def space_of(network: Perceptron) -> FeatureSpace:
    """The feature space of a perceptron; its `id` contains a hash of the weights."""
    digest = hash_weights([*network.weights, *network.biases])
    return FeatureSpace(
        "classifier",
        f"classifier-{digest}",
        network.features,
        network.classify,
        network.probabilities,
    )


def fit_classifier(train_images, train_labels, **options) -> FeatureSpace:
    """The feature space of the classifier that `fit` returns for the same arguments."""
    return space_of(fit(train_images, train_labels, **options))


def fit(train_images, train_labels, *, hidden=(128, 64), seed=0) -> Perceptron:
    """Train a classifier on images and labels; the result is a function of the arguments alone.

    Args:
        train_images: (N, ...) floats in [0, 1].
        train_labels: (N,) class labels.
        hidden: sizes of the hidden layers; the last is the number of features.

    Raises:
        ValueError: images are not floats in [0, 1], or labels are not of shape (N,).
    """
    x, labels = flatten_unit(train_images), np.asarray(train_labels)
    if labels.shape != (len(x),):
        raise ValueError(
            f"labels have shape {labels.shape} for {len(x)} images; a classifier needs one label "
            f"an image: pass an array of shape ({len(x)},)"
        )
    network = MLPClassifier(
        hidden, activation="tanh", batch_size=min(128, len(x)), tol=1e-3, random_state=seed
    )
    # One thread: the rounding of a sum depends on the number of threads, and training amplifies it.
    # The id must not depend on the number of cores.
    with threadpool_limits(1):
        network.fit(x, labels)
    weights, biases = network.coefs_, network.intercepts_
    # For two classes scikit-learn has one output, the log-odds of the second class.
    if len(network.classes_) == 2:
        weights = [*weights[:-1], np.hstack([0.0 * weights[-1], weights[-1]])]
        biases = [*biases[:-1], np.hstack([0.0 * biases[-1], biases[-1]])]
    return Perceptron(weights, biases, network.classes_)


def save_classifier(path: Path, network: Perceptron) -> str:
    """Write an npz of `weight_<i>`, `bias_<i>` and `classes`; return its SHA-256."""
    arrays = {f"weight_{i}": w for i, w in enumerate(network.weights)}
    arrays |= {f"bias_{i}": b for i, b in enumerate(network.biases)}
    put_arrays(path, **arrays, classes=network.classes)
    return sha256(path)


def load_feature_classifier(file: str) -> FeatureSpace:
    """Read the feature space of a file of `save_classifier`, or of a bundled file by its name.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file was not written by `save_classifier`, or is damaged.
    """
    path = BUNDLED / f"{file}.npz"
    if not path.is_file():
        path = Path(file)
    if not path.is_file():
        bundled = ", ".join(sorted(p.stem for p in BUNDLED.glob("*.npz")))
        raise FileNotFoundError(
            f"eval.classifier is {file!r}, which is neither a file nor one that comes along "
            f"({bundled}); make one with `python -m tools.train_feature_classifier`."
        )
    names = [f"{kind}_{i}" for kind in ("weight", "bias") for i in range(DEEPEST)]
    arrays = read(path, [*names, "classes"])
    depth = sum(name.startswith("weight_") for name in arrays)
    wanted = [f"{kind}_{i}" for kind in ("weight", "bias") for i in range(depth)]
    if depth < 2 or set(arrays) != {*wanted, "classes"}:
        raise ValueError(
            f"{path} has {', '.join(sorted(arrays)) or 'none'} of the arrays weight_<i>, bias_<i>, "
            "classes that make a classifier: make one with `python -m "
            "tools.train_feature_classifier`."
        )
    layers = [[arrays[f"{kind}_{i}"] for i in range(depth)] for kind in ("weight", "bias")]
    return space_of(Perceptron(*layers, arrays["classes"]))
