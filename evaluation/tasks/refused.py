"""Checks of the section `eval`, made when a run is built, long before the evaluation."""

from typing import Any

from data import Source
from data.source import unknown
from evaluation.metrics.table import METRICS
from evaluation.spaces.inception import RELEASES, RESIZES
from evaluation.spaces.table import FEATURE_SPACES
from evaluation.tasks.bounds import MORE_BOUNDS

# Standard errors come from 10 blocks of samples, and the moments of a block need two samples.
FEWEST_SAMPLES = 20
SPLITS = ("train", "test")


def check_evaluation(section: Any, train: Source) -> None:
    """Check the section `eval` of a config, for the training data of its run.

    Raises:
        ValueError: for an unknown name, too few samples, or a feature space that these data do not
            allow.
    """
    named = {"bpd_dataset": SPLITS, "reference": SPLITS, "resize": RESIZES}
    several = {"bounds": MORE_BOUNDS, "features": FEATURE_SPACES, "metrics": METRICS}
    for key, known in {**named, **several}.items():
        for name in section[key] if key in several else (section[key],):
            if name not in known:
                raise ValueError(unknown(f"eval.{key}", name, tuple(known)))
    check_features(section, train)
    if section.enable_sampling and section.num_samples < FEWEST_SAMPLES:
        raise ValueError(
            f"eval.num_samples is {section.num_samples}; distances need {FEWEST_SAMPLES} or more: "
            "raise it, or set eval.enable_sampling=False."
        )


def check_features(section: Any, train: Source) -> None:
    """Refuse shapes that an Inception network does not take, and a classifier without labels.

    Raises:
        ValueError: in both cases.
    """
    names, shape = [name for name in section.features if name in RELEASES], tuple(train.shape)
    if names and (len(shape) != 3 or shape[-1] not in (1, 3)):
        raise ValueError(
            f"eval.features has {names[0]!r}, which takes grey or colour images, and examples have "
            f"shape {shape}; take ('pixels',)."
        )
    if "classifier" in section.features and not section.classifier and train.labels is None:
        raise ValueError(
            f"eval.features has 'classifier', which needs labels, and {train.name} has none; take "
            "('pixels',)."
        )
