"""How far samples are from data, beside how far data are from data, and beside the baseline.

Every distance is to one split of the data, `eval.reference`. Beside it stands the floor: what real
images of the other split score.
"""

from collections.abc import Callable, Iterable
from typing import NamedTuple

from evaluation.metrics.statistics import Statistics
from evaluation.metrics.table import METRICS, Values, statistics_metric
from evaluation.report.images import Images
from evaluation.spaces.features import FeatureSpace
from evaluation.store.gather import MOMENTS, gather


class Comparison(NamedTuple):
    """With one reference in one space: what is told once, and `measure`, images to values by
    section and by what is added to the name of the set."""

    facts: Values
    measure: Callable[[Images], Values]


def compare_with(
    space: FeatureSpace,
    reference: Images,
    metrics: Iterable[str],
    statistics: Statistics | None = None,
    split: str = "test",
) -> Comparison:
    """The metrics against a reference, of which is gathered here, once, what they need.

    Args:
        metrics: names of `METRICS`.
        statistics: moments of a file, to which the Frechet distance is told besides.
        split: what the reference is called in the names of the values.

    Raises:
        ValueError: as `check_metrics`, and what each metric refuses.
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
    """The facts, and of each set by its name what was measured.

    `{"frechet": {"<name>_test": value, "<name>_test_stderr": ...}, "kid": ..., "mmd": ...}`.
    `precision_recall` and `density_coverage` have two sections each, by their parts' names.
    `inception_score`, which is no distance, has `<name>` and `test`; `statistics`, what the file is
    and `<name>`. Most are biased by the sizes of the sets, see `docs/metrics.md`: compare equal
    sizes only.
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
    """`told` of each set of images, by its name, against the reference; see `compare_with`."""
    comparison = compare_with(space, reference, metrics, statistics, split)
    return told(comparison, {name: comparison.measure(x) for name, x in images.items()})


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
