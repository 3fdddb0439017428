"""The feature spaces of `eval.features`, each made once and checked before samples are drawn."""

from typing import NamedTuple

import numpy as np

from evaluation.metrics.compare import check_metrics
from evaluation.metrics.statistics import Statistics, read_statistics
from evaluation.report.images import of_source
from evaluation.spaces.features import FeatureSpace
from evaluation.spaces.table import feature_space
from evaluation.store.memory import check_fit, mend


class Judge(NamedTuple):
    """A feature space, what a report says of it, and the moments of a file to compare with.

    `widths`: numbers of features and, where an Inception score is asked for, of classes.
    """

    space: FeatureSpace
    facts: dict
    statistics: Statistics | None
    widths: tuple[int, int]


def judges(experiment) -> list[Judge]:
    """One for each of `eval.features`; `eval.statistics` belongs to the first.

    Raises:
        FileNotFoundError: where there are no weights of a network, or no statistics.
        ValueError: as `feature_space`, `check_metrics` and `read_statistics`, and where the data
            that a classifier is fitted to do not fit into memory.
    """
    found: list[Judge] = []
    for name in experiment.config.eval.features:
        found.append(judge(experiment, name, is_first=not found))
    return found


def judge(experiment, name: str, is_first: bool) -> Judge:
    section, space = experiment.config.eval, space_of(experiment, name)
    # What does not take such images says so now, and not after hours of sampling.
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
    """The space of that name, fitted to the training split where it is a classifier without a
    file."""
    section, train = experiment.config.eval, experiment.train
    images = None
    if name == "classifier" and not section.classifier:
        # Only a space that is fitted to the data needs them, and all of them in memory.
        check_fit(experiment)
        images = of_source(train).first(train.size)
    options = {key: section[key] for key in ("classifier", "weights", "resize")}
    try:
        return feature_space(name, images, train.labels, **options)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{str(error).rstrip('.')}; {mend(experiment)}.") from error


def share_right(space: FeatureSpace, test) -> float:
    """Share of the test images whose label is told right, from a batch of them at a time."""
    told = np.concatenate([space.classify(images) for images in of_source(test).batches()])
    return float(np.mean(told == test.labels))
