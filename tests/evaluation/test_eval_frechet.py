"""The Frechet distance against closed forms, SciPy's sqrtm, and its own sampling spread."""

import numpy as np
import pytest
from scipy.linalg import sqrtm
from scipy.stats import ortho_group

from evaluation.metrics.frechet import (
    Moments,
    frechet_distance,
    frechet_with_stderr,
    merge,
    merge_all,
)
from evaluation.spaces.features import Features


def gaussian(mean, cov, n=100):
    """Return moments with exactly this mean and unbiased covariance."""
    cov = np.atleast_2d(np.asarray(cov, float))
    return Moments("toy", n, np.atleast_1d(np.asarray(mean, float)), cov * (n - 1))


def random_covariance(rng, d):
    root = rng.standard_normal((d, d + 2))
    return root @ root.T / d


def features(values):
    return Features("toy", values)


def test_one_dimension():
    """W2^2 of two normals on the line is (m1 - m2)^2 + (s1 - s2)^2."""
    distance = frechet_distance(gaussian(1.0, 9.0), gaussian(-2.5, 0.25))
    np.testing.assert_allclose(distance, 3.5**2 + (3 - 0.5) ** 2, rtol=1e-12)


def test_commuting_covariances():
    """For covariances with a common eigenbasis the distance is a sum over its directions."""
    basis = ortho_group.rvs(6, random_state=0)
    a, b = np.array([1e-6, 0.2, 1, 2, 3, 100]), np.array([4, 1e-8, 1, 0.5, 7, 90])
    left, right = basis * a @ basis.T, basis * b @ basis.T
    truth = np.sum((np.sqrt(a) - np.sqrt(b)) ** 2)
    np.testing.assert_allclose(
        frechet_distance(gaussian(np.zeros(6), left), gaussian(np.zeros(6), right)), truth
    )


def test_affine_push_forward():
    """x -> A x + v with A symmetric and positive is the optimal map (Brenier), so the distance is
    the mean cost E|A x + v - x|^2, for covariances that do not commute."""
    rng = np.random.default_rng(1)
    cov, a, mean, v = random_covariance(rng, 5), random_covariance(rng, 5), *rng.normal(size=(2, 5))
    assert np.abs(cov @ a - a @ cov).max() > 0.1
    move = a - np.eye(5)
    truth = np.trace(move @ cov @ move) + np.sum((move @ mean + v) ** 2)
    pushed = gaussian(a @ mean + v, a @ cov @ a)
    np.testing.assert_allclose(frechet_distance(gaussian(mean, cov), pushed), truth, rtol=1e-10)


@pytest.mark.parametrize("seed", range(3))
def test_agrees_with_sqrtm_and_is_symmetric(seed):
    rng = np.random.default_rng(seed)
    c1, c2, m1, m2 = *(random_covariance(rng, 8) for _ in range(2)), *rng.normal(size=(2, 8))
    truth = np.sum((m1 - m2) ** 2) + np.trace(c1 + c2 - 2 * sqrtm(c1 @ c2).real)
    a, b = gaussian(m1, c1), gaussian(m2, c2)
    np.testing.assert_allclose(frechet_distance(a, b), truth, rtol=1e-9)
    np.testing.assert_allclose(frechet_distance(a, b), frechet_distance(b, a), rtol=1e-12)


def test_identical_and_singular():
    """Sixty directions without variance, as in the corners of digits, add only rounding error."""
    basis = ortho_group.rvs(64, random_state=0)
    a = np.zeros(64)
    a[:4] = [5, 1, 2, 40]
    b = np.zeros(64)
    b[2:6] = [2, 10, 3, 0.5]
    left, right = gaussian(np.zeros(64), basis * a @ basis.T), gaussian(0 * a, basis * b @ basis.T)
    truth = np.sum((np.sqrt(a) - np.sqrt(b)) ** 2)
    assert abs(frechet_distance(left, right) - truth) < 1e-6
    assert frechet_distance(left, left) < 1e-12


def test_moments_are_the_unbiased_ones():
    x = np.random.default_rng(0).normal(size=(7, 3)).astype(np.float32)
    moments = Moments.of(features(x))
    np.testing.assert_allclose(moments.mean, x.astype(float).mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(moments.cov, np.cov(x.astype(float), rowvar=False), rtol=1e-12)


def test_chunks_merge_to_the_whole():
    """Uneven chunks merge exactly. The data are far from the origin, where sums of squares would
    lose all digits; one chunk has a single row."""
    x = np.random.default_rng(0).normal(size=(101, 4)) * [1, 2, 0.1, 5] + 1e6
    chunks = [Moments.of(features(part)) for part in np.split(x, [1, 40, 47])]
    whole, merged = Moments.of(features(x)), merge_all(chunks)
    assert merged.n == 101
    np.testing.assert_allclose(merged.mean, x.mean(axis=0), rtol=1e-14)
    np.testing.assert_allclose(merged.cov, np.cov(x, rowvar=False), rtol=1e-7, atol=1e-8)
    assert frechet_distance(whole, merged) < 1e-8


def test_stderr_is_the_spread_over_fresh_samples():
    """For two clearly different laws the mean jackknife error agrees with the spread over sixty
    fresh sets. The values lie around the truth: the bias at n = 500 is far below the spread."""
    rng, reference = np.random.default_rng(0), gaussian([0, 0], np.diag([1.0, 4.0]))
    truth = 1.5**2 + (2 - 1) ** 2 + (1 - 2) ** 2
    values, errors = [], []
    for _ in range(60):
        x = rng.normal(size=(500, 2)) * [2, 1] + [1.5, 0]
        blocks = [Moments.of(features(part)) for part in np.split(x, 10)]
        value, error = frechet_with_stderr(blocks, reference)
        values.append(value)
        errors.append(error)
    spread = np.std(values, ddof=1)
    assert 0.75 < np.mean(errors) / spread < 1.35
    assert abs(np.mean(values) - truth) < 4 * spread / 60**0.5 + 0.02


def test_refuses_what_does_not_compare():
    x = np.random.default_rng(0).normal(size=(5, 3))
    a, other = Moments.of(features(x)), Moments.of(Features("other", x))
    narrow, one = Moments.of(features(x[:, :2])), Moments.of(features(x[:1]))
    for call in (frechet_distance, merge):
        with pytest.raises(ValueError, match="different spaces"):
            call(a, other)
        with pytest.raises(ValueError, match="3 dimensions"):
            call(a, narrow)
    with pytest.raises(ValueError, match="n = 1"):
        frechet_distance(a, one)
    with pytest.raises(ValueError, match="1 of 5 feature rows"):
        Moments.of(features(np.where(np.arange(5)[:, None] == 2, np.nan, x)))
    for empty in (x[:0], x[0]):
        with pytest.raises(ValueError, match="N >= 1"):
            Moments.of(features(empty))
    for blocks in ([a], [a, one]):
        with pytest.raises(ValueError, match="split the samples evenly"):
            frechet_with_stderr(blocks, a)
