"""How far samples are from data, beside how far data are from data, and beside the baseline.

Every distance is to the test split. `train_test` is the floor: what as many real images score.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from evaluation.features import Features, FeatureSpace, accuracy
from evaluation.images import Images, of_source
from evaluation.metrics import METRICS, statistics_metric
from evaluation.spaces import feature_space
from evaluation.statistics import Statistics, read_statistics
from parallel.processes import each


def distances(
    space: FeatureSpace,
    images: dict[str, Images],
    test: Images,
    metrics: Iterable[str] = ("frechet", "kid", "mmd"),
    statistics: Statistics | None = None,
) -> dict:
    """Metrics of each set against the test images, in one space.

    Args:
        images: name to images (H, W, C).
        test: likewise.
        metrics: names of `METRICS`.
        statistics: moments of a file, to which the Frechet distance is told besides.

    Returns:
        `{"frechet": {"<name>_test": value, "<name>_test_stderr": ...}, "kid": ..., "mmd": ...}`.
        `precision_recall` and `density_coverage` have two sections each, by their parts' names.
        `inception_score`, which knows no test images, has `<name>` and `test`; `statistics`, what
        the file is and `<name>`. Most are biased by
        the sizes of the sets, see `docs/evaluation.md`: compare equal sizes only.

    Raises:
        ValueError: as `check_metrics`, and what each metric refuses.
    """
    metrics = tuple(metrics)
    check_metrics(space, metrics)
    classes = "inception_score" in metrics
    reference = features(space, test, classes)
    chosen = [METRICS[metric](space, test, reference) for metric in metrics]
    if statistics is not None:
        chosen.append(statistics_metric(space, statistics))
    result: dict[str, dict] = {}
    for metric in chosen:
        result.update({section: {**facts} for section, facts in metric.facts.items()})
    for name, x in images.items():
        found = features(space, x, classes)
        for metric in chosen:
            for section, values in metric.measure(x, found).items():
                result[section].update({f"{name}{end}": value for end, value in values.items()})
    return result


def check_metrics(space: FeatureSpace, metrics: Iterable[str]) -> None:
    """Refuses what `distances` could not compute, before samples are drawn.

    Raises:
        ValueError: an unknown name, or the inception score in a space without a classifier.
    """
    for metric in metrics:
        if metric not in METRICS:
            raise ValueError(f"metric {metric!r} is unknown; choose some of {list(METRICS)}")
        if metric == "inception_score" and space.probabilities is None:
            raise ValueError(
                f"feature space {space.id!r} gives no probabilities of classes, which the "
                "inception score is made of: use a space with a classifier or leave the metric out"
            )


def features(space: FeatureSpace, images: Images, classes: bool = False) -> Features:
    """Of all images, (n, d), from a batch of them at a time, with probabilities of classes if these
    are wanted. The processes of a job share the batches."""
    extract = space.with_probabilities if classes else space

    def part(i: int) -> dict[str, np.ndarray]:
        found = extract(images.batch(i))._asdict()
        return {key: value for key, value in found.items() if isinstance(value, np.ndarray)}

    parts = each(images.count(), part)
    joined = {key: np.concatenate([found[key] for found in parts]) for key in parts[0]}
    return Features(space.id, **joined)


class Judge(NamedTuple):
    """A feature space, what a report says of it, and the moments of a file to compare with."""

    space: FeatureSpace
    facts: dict
    statistics: Statistics | None


def judges(experiment) -> list[Judge]:
    """One for each of `eval.features`; `eval.statistics` belongs to the first.

    Raises:
        FileNotFoundError: where there are no weights of a network, or no statistics.
        ValueError: as `feature_space`, `check_metrics` and `read_statistics`.
    """
    found, section = [], experiment.config.eval
    for name in section.features:
        # Only a space that is fitted to the data needs them, and all of them in memory.
        fitted = name == "classifier" and not section.classifier
        train = of_source(experiment.train).first(experiment.train.size) if fitted else None
        options = {key: section[key] for key in ("classifier", "weights", "resize")}
        space = feature_space(name, train, experiment.train.labels, **options)
        # What does not take such images says so now, and not after hours of sampling.
        space.extract(of_source(experiment.train).first(1))
        facts = {"name": space.name, "id": space.id}
        if space.classify is not None and experiment.test.labels is not None:
            test = of_source(experiment.test)
            facts["test_accuracy"] = accuracy(space, test.first(len(test)), experiment.test.labels)
        check_metrics(space, section.metrics)
        statistics = None
        if section.statistics and not found:
            stated = section.statistics_space or None
            statistics = read_statistics(section.statistics, space.id, stated=stated)
        found.append(Judge(space, facts, statistics))
    return found
