"""MMD against a double loop, and against its value for two Gaussians within its own error."""

import numpy as np
import pytest

from evaluation.metrics.mmd import gaussian_mmd, kid, median_bandwidth, mmd_squared
from evaluation.spaces.features import Features


def features(values):
    return Features("toy", np.asarray(values, float))


def cubic(a, b):
    return (np.dot(a, b) / len(a) + 1) ** 3


def gaussian(width):
    return lambda a, b: np.exp(-np.sum((a - b) ** 2) / (2 * width**2))


def double_loop(x, y, k):
    n, m = len(x), len(y)
    xx = sum(k(x[i], x[j]) for i in range(n) for j in range(n) if i != j)
    yy = sum(k(y[i], y[j]) for i in range(m) for j in range(m) if i != j)
    xy = sum(k(a, b) for a in x for b in y)
    return xx / (n * (n - 1)) + yy / (m * (m - 1)) - 2 * xy / (n * m)


@pytest.mark.parametrize("block", [1, 7, 1024])
def test_equals_the_double_loop_whatever_the_block(block):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(23, 3)), rng.normal(size=(14, 3)) * 0.5 + 1
    result = kid(features(x), features(y), block=block)
    np.testing.assert_allclose(result.value, double_loop(x, y, cubic), rtol=1e-11)
    result = gaussian_mmd(features(x), features(y), 1.3, block=block)
    np.testing.assert_allclose(result.value, double_loop(x, y, gaussian(1.3)), rtol=1e-11)
    assert (result.kernel, result.bandwidth, result.n, result.m) == ("gaussian", 1.3, 23, 14)


def test_stderr_is_the_jackknife_over_both_sets():
    """The error agrees with reruns of the estimate without each example in turn."""
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(9, 2)), rng.normal(size=(6, 2)) + 0.5
    variance = 0.0
    for left_out in (
        [double_loop(np.delete(x, i, axis=0), y, cubic) for i in range(9)],
        [double_loop(x, np.delete(y, j, axis=0), cubic) for j in range(6)],
    ):
        variance += (len(left_out) - 1) * np.var(left_out)
    result = kid(features(x), features(y), block=4)
    np.testing.assert_allclose(result.stderr, variance**0.5, rtol=1e-10)


def gaussian_kernel_mean(m1, c1, m2, c2, width):
    """E k(x, y) for x ~ N(m1, c1), y ~ N(m2, c2): x - y is normal, so the integral is Gaussian."""
    total, gap = c1 + c2 + width**2 * np.eye(len(m1)), m1 - m2
    scale = np.sqrt(width ** (2 * len(m1)) / np.linalg.det(total))
    return scale * np.exp(-0.5 * gap @ np.linalg.solve(total, gap))


def cubic_kernel_mean(m1, s1, m2, s2):
    """E (x y + 1)^3 for independent x ~ N(m1, s1^2), y ~ N(m2, s2^2), from their moments."""
    x, y = ([m, m**2 + s**2, m**3 + 3 * m * s**2] for m, s in ((m1, s1), (m2, s2)))
    return 1 + 3 * x[0] * y[0] + 3 * x[1] * y[1] + x[2] * y[2]


def standard_scores(draw, measure, truth, repeats=60):
    rng = np.random.default_rng(0)
    results = [measure(*map(features, draw(rng))) for _ in range(repeats)]
    return np.array([(r.value - truth) / r.stderr for r in results])


def test_gaussian_kernel_meets_the_closed_form():
    m1, m2, width = np.zeros(3), np.array([0.6, -0.4, 0.0]), 1.5
    s1, s2 = np.array([1.0, 0.5, 2.0]), np.array([1.4, 0.5, 1.2])
    c1, c2 = np.diag(s1**2), np.diag(s2**2)
    truth = (
        gaussian_kernel_mean(m1, c1, m1, c1, width)
        + gaussian_kernel_mean(m2, c2, m2, c2, width)
        - 2 * gaussian_kernel_mean(m1, c1, m2, c2, width)
    )
    scores = standard_scores(
        lambda rng: (rng.normal(m1, s1, (150, 3)), rng.normal(m2, s2, (210, 3))),
        lambda x, y: gaussian_mmd(x, y, width),
        truth,
    )
    assert abs(scores.mean()) < 4 / len(scores) ** 0.5
    assert 0.7 < scores.std() < 1.35


def test_kid_meets_the_closed_form():
    truth = (
        cubic_kernel_mean(0.2, 0.6, 0.2, 0.6)
        + cubic_kernel_mean(-0.5, 0.4, -0.5, 0.4)
        - 2 * cubic_kernel_mean(0.2, 0.6, -0.5, 0.4)
    )
    scores = standard_scores(
        lambda rng: (rng.normal(0.2, 0.6, (400, 1)), rng.normal(-0.5, 0.4, (300, 1))), kid, truth
    )
    assert abs(scores.mean()) < 4 / len(scores) ** 0.5
    assert 0.7 < scores.std() < 1.35


def test_equal_laws_give_zero_on_average():
    """For equal laws the estimate is unbiased, and the error bar may be too wide, but not too
    narrow."""
    scores = standard_scores(
        lambda rng: rng.normal(size=(2, 120, 3)), lambda x, y: gaussian_mmd(x, y, 1.5), 0.0, 100
    )
    assert abs(scores.mean()) < 0.4
    assert 0.4 < scores.std() < 1.1
    assert 0.2 < np.mean(scores < 0) < 0.8


def test_median_bandwidth():
    """The distances of 0, 1, 3 have the median 2, and the half normal law has a known median."""
    assert median_bandwidth(features([[0.0], [1.0]]), features([[3.0]])) == 2.0
    x = np.random.default_rng(0).normal(size=(5000, 1))
    truth = 0.6744897501960817 * 2**0.5  # upper quartile of the standard normal, times sqrt(2)
    assert abs(median_bandwidth(features(x)) - truth) < 0.06
    assert gaussian_mmd(features(x[:40]), features(x[40:90])).bandwidth == median_bandwidth(
        features(x[:90])
    )


def test_kernel_values_are_never_held_beyond_a_block():
    rng, sizes = np.random.default_rng(0), []

    def kernel(a, b):
        sizes.append(len(a) * len(b))
        return a @ b.T

    mmd_squared(rng.normal(size=(50, 2)), rng.normal(size=(33, 2)), kernel, block=8)
    assert max(sizes) == 64
    # Every pair is computed once, except in the diagonal blocks and the last blocks of rows.
    assert sum(sizes) < 50 * 33 + (50 * 58 + 33 * 41) / 2


def test_refuses_what_does_not_compare():
    x = np.random.default_rng(0).normal(size=(5, 3))
    for measure in (kid, gaussian_mmd):
        with pytest.raises(ValueError, match="one space"):
            measure(features(x), Features("other", x))
        with pytest.raises(ValueError, match="one space"):
            measure(features(x), features(x[:, :2]))
        with pytest.raises(ValueError, match="at least 3"):
            measure(features(x), features(x[:2]))
        with pytest.raises(ValueError, match="NaN"):
            measure(features(x), features(np.full((5, 3), np.nan)), *([1.0] * (measure is not kid)))
    for width in (0.0, -1.0, np.nan):
        with pytest.raises(ValueError, match="bandwidth"):
            gaussian_mmd(features(x), features(x), width)
