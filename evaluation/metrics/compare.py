"""Distances of samples to data, with the same distances of real images and of the baseline.

Every distance is to one split of the data, `eval.reference`. The report shows each distance beside
its floor, the distance of real images of the other split.
"""

from collections.abc import Callable, Iterable
from typing import NamedTuple

from evaluation.metrics.statistics import Statistics
from evaluation.metrics.table import METRICS, Values, statistics_metric
from evaluation.report.images import Images
from evaluation.spaces.features import FeatureSpace
from evaluation.store.gather import MOMENTS, gather


class Comparison(NamedTuple):
    """The chosen metrics against one reference in one feature space.

    facts: by section of the result, values that depend on the reference alone.
    measure: images to values, by section and by the suffix that follows the name of the set of
        images, as `{"kid": {"_test": ..., "_test_stderr": ...}}`.
    """

    facts: Values
    measure: Callable[[Images], Values]


def compare_with(
    space: FeatureSpace,
    reference: Images,
    metrics: Iterable[str],
    statistics: Statistics | None = None,
    split: str = "test",
) -> Comparison:
    """Return the metrics against a reference, whose features or moments are gathered here, once.

    Args:
        metrics: names of `METRICS`.
        statistics: moments of a file; the Frechet distance to them is computed in addition.
        split: the name of the reference in the names of the values.

    Raises:
        ValueError: as `check_metrics`, and for sets of images that one of the metrics refuses.
    """
    metrics = tuple(metrics)
    check_metrics(space, metrics)
    needs = {METRICS[name].needs for name in metrics} | ({MOMENTS} if statistics else set())
    seen = gather(space, reference, needs, in_blocks=False)
    chosen = [METRICS[name].make(split, seen) for name in metrics]
    if statistics is not None:
        chosen.append(statistics_metric(statistics))
    facts = {section: own for metric in chosen for section, own in metric.facts.items()}

    def measure(images: Images) -> Values:
        found = gather(space, images, needs)
        return {name: own for metric in chosen for name, own in metric.measure(found).items()}

    return Comparison(facts, measure)


def told(comparison: Comparison, measured: dict[str, Values]) -> dict:
    """Return the facts of a comparison and the values of each set of images, by section.

    `{"frechet": {"<name>_test": value, "<name>_test_stderr": ...}, "kid": ..., "mmd": ...}`.
    `precision_recall` and `density_coverage` have two sections each, named as their two parts.
    The section `inception_score`, which is no distance, has the keys `<name>` and `test`; the
    section `statistics` has the facts of the file and `<name>`. Most values are biased by the sizes
    of the sets, see `docs/metrics.md`: compare equal sizes only.
    """
    result: dict[str, dict] = {name: {**facts} for name, facts in comparison.facts.items()}
    for name, sections in measured.items():
        for section, values in sections.items():
            result[section].update({f"{name}{end}": value for end, value in values.items()})
    return result


def distances(
    space: FeatureSpace,
    images: dict[str, Images],
    reference: Images,
    metrics: Iterable[str] = ("frechet", "kid", "mmd"),
    statistics: Statistics | None = None,
    split: str = "test",
) -> dict:
    """Compare each set of images, by its name, with the reference; `told` gives the result.

    The other arguments and the errors are those of `compare_with`.
    """
    comparison = compare_with(space, reference, metrics, statistics, split)
    return told(comparison, {name: comparison.measure(x) for name, x in images.items()})


def check_metrics(space: FeatureSpace, metrics: Iterable[str]) -> None:
    """Refuse metrics that `distances` could not compute, before samples are drawn.

    Raises:
        ValueError: an unknown name, or the inception score in a space without a classifier.
    """
    for metric in metrics:
        if metric not in METRICS:
            raise ValueError(f"metric {metric!r} is unknown; choose some of {list(METRICS)}")
        if metric == "inception_score" and space.probabilities is None:
            raise ValueError(
                f"feature space {space.id!r} gives no probabilities of classes, which the "
                "inception score needs: use a space with a classifier or leave the metric out"
            )
