"""The metrics of a report by name: what each makes of the features of two sets of images."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from evaluation.features import Features, FeatureSpace
from evaluation.fid_infinity import fid_infinity
from evaluation.frechet import Moments, frechet_distance, frechet_with_stderr
from evaluation.images import Images
from evaluation.inception_score import inception_score
from evaluation.manifold import density_coverage, precision_recall
from evaluation.mmd import gaussian_mmd, kid, median_bandwidth
from evaluation.sliced_wasserstein import sliced_wasserstein
from evaluation.statistics import Statistics

BLOCKS = 10
Values = dict[str, dict[str, float]]


class Metric(NamedTuple):
    """A metric that has seen the test images.

    facts: section of the result to what it holds once, whatever is measured.
    measure: images and their features, for an Inception score with probabilities, to values by
        section and by what is added to the name of the set, as
        `{"kid": {"_test": ..., "_test_stderr": ...}}`.
    """

    facts: Values
    measure: Callable[[Images, Features], Values]


def frechet_metric(space, test, reference) -> Metric:
    moments = Moments.of(reference)

    def measure(x, found):
        return {"frechet": against(*frechet_of(space, found, moments))}

    return Metric({"frechet": {}}, measure)


def frechet_of(space: FeatureSpace, found: Features, moments: Moments) -> tuple[float, float]:
    """The distance of all rows, and its error, by ten blocks of one size."""
    count = min(BLOCKS, len(found.values))
    blocks = split(space, found.values[: len(found.values) // count * count])
    return frechet_distance(Moments.of(found), moments), frechet_with_stderr(blocks, moments)[1]


def statistics_metric(space: FeatureSpace, statistics: Statistics) -> Metric:
    """The Frechet distance to the moments of a file, and what a report says of that."""
    facts = {
        "sha256": statistics.sha256,
        "space_is": statistics.space_is,
        "n": statistics.moments.n,
        "fingerprint": statistics.fingerprint,
    }

    def measure(x, found):
        value, stderr = frechet_of(space, found, statistics.moments)
        return {"statistics": {"": value, "_stderr": stderr}}

    return Metric({"statistics": facts}, measure)


def fid_infinity_metric(space, test, reference) -> Metric:
    moments = Moments.of(reference)

    def measure(x, found):
        result = fid_infinity(split(space, found.values), moments)
        return {"fid_infinity": against(result.value, result.stderr)}

    return Metric({"fid_infinity": {}}, measure)


def kid_metric(space, test, reference) -> Metric:
    def measure(x, found):
        result = kid(found, reference)
        return {"kid": against(result.value, result.stderr)}

    return Metric({"kid": {}}, measure)


def mmd_metric(space, test, reference) -> Metric:
    bandwidth = median_bandwidth(reference)

    def measure(x, found):
        result = gaussian_mmd(found, reference, bandwidth)
        return {"mmd": against(result.value, result.stderr)}

    return Metric({"mmd": {"bandwidth": bandwidth}}, measure)


def pair_metric(compare: Callable, *names: str) -> Callable[..., Metric]:
    """Of a function whose result has two numbers of those names, each with its `_stderr`."""

    def metric(space, test, reference) -> Metric:
        def measure(x, found):
            result = compare(found, reference)._asdict()
            return {name: against(result[name], result[f"{name}_stderr"]) for name in names}

        return Metric({name: {} for name in names}, measure)

    return metric


def sliced_wasserstein_metric(space, test, reference) -> Metric:
    def measure(x, found):
        # The directions are the same for every set, so what differs is the samples.
        result = sliced_wasserstein(found, reference)
        values = against(result.value, result.samples_stderr)
        return {"sliced_wasserstein": {**values, "_test_direction_stderr": result.stderr}}

    return Metric({"sliced_wasserstein": {}}, measure)


def inception_score_metric(space, test, reference) -> Metric:
    def values(found):
        result = inception_score(found.probabilities, min(BLOCKS, len(found.probabilities)))
        return {
            "": result.value,
            "_stderr": result.stderr,
            "_split_mean": result.split_mean,
            "_split_std": result.split_std,
        }

    facts = {f"test{end}": value for end, value in values(reference).items()}
    return Metric({"inception_score": facts}, lambda x, found: {"inception_score": values(found)})


METRICS: dict[str, Callable[[FeatureSpace, Images, Features], Metric]] = {
    "frechet": frechet_metric,
    "kid": kid_metric,
    "mmd": mmd_metric,
    "precision_recall": pair_metric(precision_recall, "precision", "recall"),
    "density_coverage": pair_metric(density_coverage, "density", "coverage"),
    "sliced_wasserstein": sliced_wasserstein_metric,
    "fid_infinity": fid_infinity_metric,
    "inception_score": inception_score_metric,
}


def against(value: float, stderr: float) -> dict[str, float]:
    return {"_test": value, "_test_stderr": stderr}


def split(space: FeatureSpace, values: np.ndarray) -> list[Moments]:
    """Moments of ten blocks, or of as many as there are rows, equal in size up to one."""
    parts = np.array_split(values, min(BLOCKS, len(values)))
    return [Moments.of(Features(space.id, part)) for part in parts]
