"""The extrapolated Frechet distance: the fitted line, the error, and the removed bias."""

import numpy as np
import pytest
from scipy.stats import linregress

from evaluation.metrics.fid_infinity import fid_infinity, intercept
from evaluation.metrics.frechet import Moments, frechet_distance, frechet_with_stderr, merge_all
from evaluation.spaces.features import Features


def blocks_of(x, count=10):
    return [Moments.of(Features("toy", part)) for part in np.array_split(x, count)]


def population(mean, std):
    """The exact moments of a law, without a number of examples."""
    return Moments("toy", None, np.asarray(mean, float), np.diag(np.square(std)))


def test_intercept_of_a_line_and_of_what_is_none():
    n = np.array([50_000, 25_000, 12_500])
    np.testing.assert_allclose(intercept(1 / n, 3.0 + 70 / n), 3.0, rtol=1e-12)
    x, y = np.array([0.1, 0.2, 0.4]), np.array([1.0, 3.0, 2.0])
    np.testing.assert_allclose(intercept(x, y), linregress(x, y).intercept, rtol=1e-12)


def test_parts_hold_every_sample_once():
    """The distances agree with moments of lists of rows, and the intercept with SciPy's line."""
    rng = np.random.default_rng(0)
    x, reference = rng.normal(size=(103, 3)), population([0.2, 0, 0], [1, 2, 1])
    rows = np.array_split(np.arange(103), 10)

    def distance(blocks):
        part = np.concatenate([rows[i] for i in blocks])
        return frechet_distance(Moments.of(Features("toy", x[part])), reference), 1 / len(part)

    values, inverse = np.array(
        [np.mean([distance(range(i, 10, m)) for i in range(m)], axis=0) for m in (1, 2, 3)]
    ).T
    result = fid_infinity(blocks_of(x), reference)
    np.testing.assert_allclose(result.value, linregress(inverse, values).intercept, rtol=1e-9)
    np.testing.assert_allclose(result.sizes, 1 / inverse, rtol=1e-12)
    np.testing.assert_allclose(result.distances, values, rtol=1e-9)
    assert result.distances[0] > result.value


@pytest.mark.parametrize("parts", [(1, 2, 3), (2, 5)])
def test_stderr_is_the_jackknife_of_the_largest_size(parts):
    rng = np.random.default_rng(0)
    x, reference = rng.normal(size=(200, 3)), population([0.2, 0, 0], [1, 2, 1])
    blocks = blocks_of(x)
    halves = [[b for i, b in enumerate(blocks) if i % parts[0] == h] for h in range(parts[0])]
    left_out = [
        np.mean(
            [
                frechet_distance(merge_all([b for b in h if b is not gone]), reference)
                for h in halves
            ]
        )
        for gone in blocks
    ]
    stderr = fid_infinity(blocks, reference, parts).stderr
    np.testing.assert_allclose(stderr, (9 * np.var(left_out)) ** 0.5, rtol=1e-8)
    if parts[0] == 1:
        np.testing.assert_allclose(stderr, frechet_with_stderr(blocks, reference)[1], rtol=1e-8)


@pytest.mark.parametrize("shift", [0.0, 0.2])
def test_bias_shrinks_and_the_error_is_the_spread(shift):
    """Gaussian samples against a law at a known distance. The smallest part has about 30 samples
    per dimension. The remaining bias is of second order."""
    rng, d, n = np.random.default_rng(0), 8, 800
    std = np.linspace(0.5, 1.5, d)
    reference, truth = population(np.zeros(d), std), d * shift**2
    draws = [rng.normal(size=(n, d)) * std + shift for _ in range(100)]
    results = [fid_infinity(blocks_of(x), reference) for x in draws]
    plain, better = np.array([(r.distances[0], r.value) for r in results]).T - truth
    error = better.std(ddof=1) / 10
    assert plain.mean() > 5 * error
    assert abs(better.mean()) < 3 * error
    assert 0.7 < np.mean([r.stderr for r in results]) / better.std(ddof=1) < 1.4


def test_refusals():
    x, reference = np.random.default_rng(0).normal(size=(80, 2)), population([0, 0], [1, 1])
    blocks = blocks_of(x)
    for few in (blocks[:5], [*blocks[:9], Moments.of(Features("toy", x[:3]))], blocks_of(x, 80)):
        with pytest.raises(ValueError, match="at least 6 blocks of one size"):
            fid_infinity(few, reference)
    with pytest.raises(ValueError, match="at least 6 blocks"):
        fid_infinity([population([0, 0], [1, 1])] * 10, reference)
    for parts in ((1,), (2, 1), (0, 2), (1, 1)):
        with pytest.raises(ValueError, match="increasing"):
            fid_infinity(blocks, reference, parts)
    with pytest.raises(ValueError, match="different spaces"):
        fid_infinity(blocks, Moments("other", None, np.zeros(2), np.eye(2)))
