"""The metrics of a report by name, as functions of two gathered sets of images."""

from collections.abc import Callable
from typing import NamedTuple

from evaluation.metrics.fid_infinity import fid_infinity
from evaluation.metrics.frechet import Moments, frechet_distance, frechet_with_stderr
from evaluation.metrics.inception_score import inception_score
from evaluation.metrics.manifold import density_coverage, precision_recall
from evaluation.metrics.mmd import gaussian_mmd, kid, median_bandwidth
from evaluation.metrics.sliced_wasserstein import sliced_wasserstein
from evaluation.metrics.statistics import Statistics
from evaluation.spaces.features import Features
from evaluation.store.gather import (
    BLOCKS,
    FEATURES,
    MOMENTS,
    PROBABILITIES,
    Gathered,
    equal_edges,
    even_edges,
)

Values = dict[str, dict[str, float]]


class Metric(NamedTuple):
    """A metric against one reference, the images of a split.

    facts: by section of the result, values that depend on the reference alone.
    measure: another set, as gathered, to values by section and by the suffix that follows the name
        of the set, as `{"kid": {"_test": ..., "_test_stderr": ...}}`.
    """

    facts: Values
    measure: Callable[[Gathered], Values]


class Kind(NamedTuple):
    """An entry of `METRICS`.

    make: `(split, reference) -> Metric`; `split` is the name of the reference's split.
    needs: FEATURES, MOMENTS or PROBABILITIES, which both gathered sets must hold.
    samples, reference: the smallest numbers of samples and of reference images for which the value
        and its error exist.
    """

    make: Callable[[str, Gathered], Metric]
    needs: str
    samples: int
    reference: int


def frechet_metric(split: str, reference: Gathered) -> Metric:
    moments = reference.moments()

    def measure(found):
        return {"frechet": against(split, *frechet_of(found, moments))}

    return Metric({"frechet": {}}, measure)


def frechet_of(found: Gathered, moments: Moments) -> tuple[float, float]:
    """The distance of all images, and its standard error from ten blocks of one size."""
    blocks = found.blocks(equal_edges(found.n))
    return frechet_distance(found.moments(), moments), frechet_with_stderr(blocks, moments)[1]


def statistics_metric(statistics: Statistics) -> Metric:
    """The Frechet distance to the moments of a file, and the facts about the file."""
    facts = {
        "sha256": statistics.sha256,
        "space_is": statistics.space_is,
        "n": statistics.moments.n,
        "fingerprint": statistics.fingerprint,
    }

    def measure(found):
        value, stderr = frechet_of(found, statistics.moments)
        return {"statistics": {"": value, "_stderr": stderr}}

    return Metric({"statistics": facts}, measure)


def fid_infinity_metric(split: str, reference: Gathered) -> Metric:
    moments = reference.moments()

    def measure(found):
        result = fid_infinity(found.blocks(even_edges(found.n)), moments)
        return {"fid_infinity": against(split, result.value, result.stderr)}

    return Metric({"fid_infinity": {}}, measure)


def kid_metric(split: str, reference: Gathered) -> Metric:
    def measure(found):
        result = kid(found.features, reference.features)
        return {"kid": against(split, result.value, result.stderr)}

    return Metric({"kid": {}}, measure)


def mmd_metric(split: str, reference: Gathered) -> Metric:
    bandwidth = median_bandwidth(reference.features)

    def measure(found):
        result = gaussian_mmd(found.features, reference.features, bandwidth)
        return {"mmd": against(split, result.value, result.stderr)}

    return Metric({"mmd": {"bandwidth": bandwidth}}, measure)


def pair_metric(compare: Callable[[Features, Features], NamedTuple], *names: str) -> Callable:
    """Make a metric of a function whose result has the fields `<name>` and `<name>_stderr`, for
    each of `names`; each name is a section of the report."""

    def metric(split: str, reference: Gathered) -> Metric:
        def measure(found):
            result = compare(found.features, reference.features)._asdict()
            return {name: against(split, result[name], result[f"{name}_stderr"]) for name in names}

        return Metric({name: {} for name in names}, measure)

    return metric


def sliced_wasserstein_metric(split: str, reference: Gathered) -> Metric:
    def measure(found):
        # All sets have the same directions, so they differ by their samples alone.
        result = sliced_wasserstein(found.features, reference.features)
        values = against(split, result.value, result.samples_stderr)
        values[f"_{split}_direction_stderr"] = result.stderr
        return {"sliced_wasserstein": values}

    return Metric({"sliced_wasserstein": {}}, measure)


def inception_score_metric(split: str, reference: Gathered) -> Metric:
    def values(found):
        probabilities = found.features.probabilities
        result = inception_score(probabilities, min(BLOCKS, len(probabilities)))
        return {
            "": result.value,
            "_stderr": result.stderr,
            "_split_mean": result.split_mean,
            "_split_std": result.split_std,
        }

    facts = {f"{split}{end}": value for end, value in values(reference).items()}
    return Metric({"inception_score": facts}, lambda found: {"inception_score": values(found)})


METRICS: dict[str, Kind] = {
    "frechet": Kind(frechet_metric, MOMENTS, 3, 2),
    "kid": Kind(kid_metric, FEATURES, 3, 3),
    "mmd": Kind(mmd_metric, FEATURES, 3, 3),
    "precision_recall": Kind(pair_metric(precision_recall, "precision", "recall"), FEATURES, 5, 4),
    "density_coverage": Kind(pair_metric(density_coverage, "density", "coverage"), FEATURES, 7, 6),
    "sliced_wasserstein": Kind(sliced_wasserstein_metric, FEATURES, 3, 3),
    "fid_infinity": Kind(fid_infinity_metric, MOMENTS, 20, 2),
    "inception_score": Kind(inception_score_metric, PROBABILITIES, 2, 2),
}
# As many samples the Frechet distance takes to the moments of a file.
STATISTICS_SAMPLES = METRICS["frechet"].samples


def against(split: str, value: float, stderr: float) -> dict[str, float]:
    return {f"_{split}": value, f"_{split}_stderr": stderr}
