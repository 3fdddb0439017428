"""The table of feature spaces, by their names in `eval.features`."""

from collections.abc import Callable
from typing import Any, NamedTuple

from evaluation.spaces.feature_classifier import fit_classifier, load_feature_classifier
from evaluation.spaces.features import FeatureSpace, pixels, unit_batch
from evaluation.spaces.inception import load_inception


def inception(name="inception", *, weights="", resize="clean") -> FeatureSpace:
    """The 2048 features of an Inception-v3 that was trained on ImageNet, for images (N, H, W, C).

    C is 1 or 3; a grey channel is repeated. `id` names the network, the hash of its weights and the
    resize: `inception-2015-6726825d-clean`. The probabilities are those of ImageNet's classes, not
    of the data's classes, as the Inception score takes them (Salimans et al. 2016).

    Args:
        name: 'inception' is the graph of 2015, with which papers compute the FID; 'inception_v3' is
            torchvision's network.
        weights: the file with the weights, or its folder. Empty for the folder in the environment
            variable `SCOREFIELD_WEIGHTS`, or `~/.cache/scorefield` if the variable is not set.
        resize: filter that resizes to 299x299: 'clean', 'legacy_tensorflow' or 'legacy_pytorch'.

    Raises:
        ValueError: the name or the resize is unknown, or the file holds other weights.
        FileNotFoundError: there is no file with the weights.
    """
    network = load_inception(name, weights=weights, resize=resize)
    return FeatureSpace(
        name,
        network.id,
        extract=lambda images: network.features(unit_batch(images)),
        probabilities=lambda images: network.probabilities(unit_batch(images)),
        both=lambda images: network.both(unit_batch(images)),
    )


class Given(NamedTuple):
    """Inputs of a feature space: the training split (images, labels), and files."""

    images: Any = None
    labels: Any = None
    classifier: str = ""
    weights: str = ""
    resize: str = "clean"


def classifier(given: Given) -> FeatureSpace:
    if given.classifier:
        return load_feature_classifier(given.classifier)
    return fit_classifier(given.images, given.labels)


def inception_of(name: str) -> Callable[[Given], FeatureSpace]:
    return lambda given: inception(name, weights=given.weights, resize=given.resize)


FEATURE_SPACES: dict[str, Callable[[Given], FeatureSpace]] = {
    "pixels": lambda given: pixels(),
    "classifier": classifier,
    "inception": inception_of("inception"),
    "inception_v3": inception_of("inception_v3"),
}


def feature_space(name: str, train_images=None, train_labels=None, **options) -> FeatureSpace:
    """Return the feature space `name`; a classifier without a file is fitted to the training split.

    Args:
        train_images: (N, ...) floats in [0, 1], for a classifier that is fitted.
        train_labels: (N,), for the same.
        options: `classifier`, the file of a classifier; `weights` and `resize` of `inception`.

    Raises:
        ValueError: for an unknown name, and as the constructor of the space.
        FileNotFoundError: a file of the space is missing.
    """
    if name not in FEATURE_SPACES:
        raise ValueError(f"feature space {name!r} is unknown; choose one of {list(FEATURE_SPACES)}")
    return FEATURE_SPACES[name](Given(train_images, train_labels, **options))
