"""Metrics by name: each section of the result has the values of the metric's own function."""

import numpy as np
import pytest
from scipy.special import softmax

from evaluation.metrics.compare import check_metrics, distances
from evaluation.metrics.fid_infinity import fid_infinity
from evaluation.metrics.frechet import Moments, frechet_distance, frechet_with_stderr
from evaluation.metrics.inception_score import inception_score
from evaluation.metrics.manifold import density_coverage, precision_recall
from evaluation.metrics.mmd import gaussian_mmd, kid, median_bandwidth
from evaluation.metrics.sliced_wasserstein import sliced_wasserstein
from evaluation.metrics.statistics import read_statistics, write_statistics
from evaluation.metrics.table import METRICS
from evaluation.report.images import of_array
from evaluation.spaces.features import Features, FeatureSpace, pixels


def probabilities(images):
    return softmax(4 * images.reshape(len(images), -1)[:, :3], axis=1)


@pytest.fixture(scope="module")
def sets():
    rng = np.random.default_rng(0)
    return {"samples": rng.random((63, 2, 2, 1)) ** 1.5, "train": rng.random((50, 2, 2, 1))}


@pytest.fixture(scope="module")
def real():
    return np.random.default_rng(1).random((40, 2, 2, 1))


def compare(space, sets, real, *args):
    images = {name: of_array(x) for name, x in sets.items()}
    return distances(space, images, of_array(real), *args)


SPACE = FeatureSpace("toy", "pixels", pixels().extract, probabilities=probabilities)


def test_every_metric_is_what_it_says_itself(sets, real):
    found = compare(SPACE, sets, real, tuple(METRICS))
    reference = pixels()(real)
    moments, width = Moments.of(reference), median_bandwidth(reference)
    assert found["mmd"]["bandwidth"] == width
    for name, images in sets.items():
        x = pixels()(images)
        size = len(images) // 10
        blocks = [Moments.of(Features("pixels", x.values[i * size :][:size])) for i in range(10)]
        pr, dc = precision_recall(x, reference), density_coverage(x, reference)
        sliced = sliced_wasserstein(x, reference)
        parts = [Moments.of(Features("pixels", b)) for b in np.array_split(x.values, 10)]
        for section, value, stderr in (
            (
                "frechet",
                frechet_distance(Moments.of(x), moments),
                frechet_with_stderr(blocks, moments)[1],
            ),
            ("kid", *kid(x, reference)[:2]),
            ("mmd", *gaussian_mmd(x, reference, width)[:2]),
            ("precision", pr.precision, pr.precision_stderr),
            ("recall", pr.recall, pr.recall_stderr),
            ("density", dc.density, dc.density_stderr),
            ("coverage", dc.coverage, dc.coverage_stderr),
            ("sliced_wasserstein", sliced.value, sliced.samples_stderr),
            ("fid_infinity", *fid_infinity(parts, moments)[:2]),
        ):
            key = f"{name}_test"
            assert found[section][key] == pytest.approx(value, rel=1e-9), section
            assert found[section][f"{key}_stderr"] == pytest.approx(stderr, rel=1e-9), section
        direction = found["sliced_wasserstein"][f"{name}_test_direction_stderr"]
        assert direction == pytest.approx(sliced.stderr)
    for name, images in (*sets.items(), ("test", real)):
        result = inception_score(probabilities(images))
        keys = (name, f"{name}_stderr", f"{name}_split_mean", f"{name}_split_std")
        assert [found["inception_score"][key] for key in keys] == [*result[:4]]


def test_one_pass_gives_features_and_probabilities(sets, real):
    """The network runs once per image, and gives probabilities only for metrics that need them."""
    seen = {"alone": 0, "both": 0}

    def extract(images):
        seen["alone"] += len(images)
        return SPACE.extract(images)

    def both(images):
        seen["both"] += len(images)
        return SPACE.extract(images), probabilities(images)

    space = FeatureSpace("toy", "pixels", extract, probabilities=probabilities, both=both)
    metrics = ("frechet", "inception_score")
    assert compare(space, sets, real, metrics) == compare(SPACE, sets, real, metrics)
    assert seen == {"alone": 0, "both": 40 + 63 + 50}
    compare(space, sets, real, ("frechet",))
    assert seen == {"alone": 40 + 63 + 50, "both": 40 + 63 + 50}


def test_only_what_is_asked_for(sets, real):
    both = {"samples_test", "samples_test_stderr", "train_test", "train_test_stderr"}
    found = compare(pixels(), sets, real)
    assert {section: found[section].keys() for section in found} == {
        "frechet": both,
        "kid": both,
        "mmd": both | {"bandwidth"},
    }
    found = compare(pixels(), sets, real, ["precision_recall"])
    assert {section: found[section].keys() for section in found} == {
        "precision": both,
        "recall": both,
    }


def test_statistics_of_a_file(sets, real, tmp_path):
    """The result has the distance to the file's moments and the origin of the moments."""
    moments = Moments.of(pixels()(sets["train"]))
    digest = write_statistics(tmp_path / "train.npz", moments, "abc")
    file = read_statistics(tmp_path / "train.npz", "pixels")
    found = compare(pixels(), sets, real, ("kid",), file)["statistics"]
    own = frechet_distance(Moments.of(pixels()(sets["samples"])), moments)
    assert found["samples"] == pytest.approx(own, rel=1e-9) and found["samples_stderr"] > 0
    assert found["train"] == pytest.approx(0.0, abs=1e-9)
    assert (found["sha256"], found["n"], found["space_is"]) == (digest, 50, "recorded")


def test_refusals(sets, real):
    with pytest.raises(ValueError, match=r"'fid' is unknown.*'frechet'"):
        compare(pixels(), sets, real, ("fid",))
    with pytest.raises(ValueError, match=r"'pixels' gives no probabilities"):
        check_metrics(pixels(), ("kid", "inception_score"))
    check_metrics(SPACE, METRICS)
