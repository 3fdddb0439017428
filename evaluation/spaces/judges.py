"""The feature spaces of `eval.features`, made once and checked before samples are drawn."""

from typing import NamedTuple

import numpy as np

from evaluation.metrics.compare import check_metrics
from evaluation.metrics.statistics import Statistics, read_statistics
from evaluation.report.images import of_source
from evaluation.spaces.features import FeatureSpace
from evaluation.spaces.table import feature_space
from evaluation.store.memory import check_fit, mend


class Judge(NamedTuple):
    """A feature space, the facts about it in a report, and moments of a file for comparison.

    `statistics` may be None. `widths`: the number of features, and the number of classes if the
    Inception score is computed, else 0.
    """

    space: FeatureSpace
    facts: dict
    statistics: Statistics | None
    widths: tuple[int, int]


def judges(experiment) -> list[Judge]:
    """Return a judge for each name in `eval.features`; `eval.statistics` belongs to the first.

    Raises:
        FileNotFoundError: the weights of a network or the statistics are missing.
        ValueError: as `feature_space`, `check_metrics` and `read_statistics`, and if the data to
            which a classifier is fitted do not fit into memory.
    """
    found: list[Judge] = []
    for name in experiment.config.eval.features:
        found.append(judge(experiment, name, is_first=not found))
    return found


def judge(experiment, name: str, is_first: bool) -> Judge:
    section, space = experiment.config.eval, space_of(experiment, name)
    # A space that does not accept these images raises its error here, before hours of sampling.
    one = of_source(experiment.train).first(1)
    if "inception_score" in section.metrics and space.probabilities is not None:
        found = space.with_probabilities(one)
        widths = found.values.shape[1], found.probabilities.shape[1]
    else:
        widths = space.extract(one).shape[1], 0
    facts = {"name": space.name, "id": space.id, "reference": section.reference}
    if space.classify is not None and experiment.test.labels is not None:
        facts["test_accuracy"] = share_right(space, experiment.test)
    check_metrics(space, section.metrics)
    statistics = None
    if section.statistics and is_first:
        stated = section.statistics_space or None
        statistics = read_statistics(section.statistics, space.id, stated=stated)
    return Judge(space, facts, statistics, widths)


def space_of(experiment, name: str) -> FeatureSpace:
    """Return the feature space `name`; a classifier without a file is fitted to the training split.

    Raises:
        FileNotFoundError, ValueError: as `judges`.
    """
    section, train = experiment.config.eval, experiment.train
    images = None
    if name == "classifier" and not section.classifier:
        # Only a space that is fitted to the data needs the images, all of them in memory.
        check_fit(experiment)
        images = of_source(train).first(train.size)
    options = {key: section[key] for key in ("classifier", "weights", "resize")}
    try:
        return feature_space(name, images, train.labels, **options)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{str(error).rstrip('.')}; {mend(experiment)}.") from error


def share_right(space: FeatureSpace, test) -> float:
    """Share of the test images whose label the space's classifier gets right, batch by batch."""
    told = np.concatenate([space.classify(images) for images in of_source(test).batches()])
    return float(np.mean(told == test.labels))
