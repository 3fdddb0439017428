"""Feature spaces by name, as `eval.features` names them."""

from collections.abc import Callable
from typing import Any, NamedTuple

from evaluation.spaces.feature_classifier import fit_classifier, load_feature_classifier
from evaluation.spaces.features import FeatureSpace, pixels, unit_batch
from evaluation.spaces.inception import load_inception


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
        both=lambda images: network.both(unit_batch(images)),
    )


class Given(NamedTuple):
    """What spaces are made of: the training split, and files."""

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
    """The space of that name, fitted to the training split where it has something to fit.

    Args:
        train_images: (N, ...) floats in [0, 1], for a classifier that is fitted.
        train_labels: (N,).
        options: `classifier`, the file of one; `weights` and `resize` of `inception`.
    """
    if name not in FEATURE_SPACES:
        raise ValueError(f"feature space {name!r} is unknown; choose one of {list(FEATURE_SPACES)}")
    return FEATURE_SPACES[name](Given(train_images, train_labels, **options))
