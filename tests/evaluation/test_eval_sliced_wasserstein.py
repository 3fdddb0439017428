"""Sliced Wasserstein against linear programs, closed forms for Gaussians, and its own errors."""

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment, linprog

from evaluation.metrics.sliced_wasserstein import sliced_wasserstein, squared_w2
from evaluation.spaces.features import Features


def features(values):
    return Features("toy", np.asarray(values, float))


def transport(x, y):
    """The cost of the optimal plan between uniform weights on x and y, by a linear program."""
    n, m = len(x), len(y)
    cost = (x[:, None] - y) ** 2
    rows, columns = np.kron(np.eye(n), np.ones(m)), np.kron(np.ones(n), np.eye(m))
    weights = np.concatenate([np.full(n, 1 / n), np.full(m, 1 / m)])
    return linprog(cost.ravel(), A_eq=np.vstack([rows, columns]), b_eq=weights).fun


@pytest.mark.parametrize("n, m", [(7, 7), (7, 5), (4, 12), (9, 6), (3, 8)])
def test_on_a_line_it_is_the_cost_of_the_best_plan(n, m):
    rng = np.random.default_rng(n * m)
    x, y = rng.normal(size=(3, n)), rng.exponential(size=(3, m)) * 2
    found = squared_w2(np.sort(x, axis=1), np.sort(y, axis=1))
    np.testing.assert_allclose(found, [transport(a, b) for a, b in zip(x, y)], rtol=1e-7)
    one_dimension = sliced_wasserstein(features(x[:1].T), features(y[:1].T), directions=2)
    np.testing.assert_allclose(one_dimension.value, found[0], rtol=1e-12)


def test_directions_are_averaged():
    """In 2D the value agrees with the mean over a fine grid of directions, where each slice is
    solved as an assignment."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(12, 2)), rng.normal(size=(12, 2)) * [2, 0.5] + 1
    slices = []
    for angle in np.linspace(0, np.pi, 180, endpoint=False):
        theta = np.array([np.cos(angle), np.sin(angle)])
        cost = ((x @ theta)[:, None] - y @ theta) ** 2
        slices.append(cost[linear_sum_assignment(cost)].mean())
    result = sliced_wasserstein(features(x), features(y), directions=4000)
    assert abs(result.value - np.mean(slices)) < 4 * result.stderr
    np.testing.assert_allclose(result.stderr, np.std(slices) / 4000**0.5, rtol=0.1)


def test_a_shift_costs_its_square_over_the_dimension():
    """For a shift v, W2^2 of a slice is (theta . v)^2 with mean |v|^2 / d. Only directions vary."""
    rng = np.random.default_rng(0)
    x, v = rng.normal(size=(40, 8)), rng.normal(size=8)
    results = [sliced_wasserstein(features(x), features(x + v), 300, seed) for seed in range(60)]
    scores = np.array([(r.value - v @ v / 8) / r.stderr for r in results])
    assert abs(scores.mean()) < 4 / 60**0.5 and 0.75 < scores.std() < 1.3
    assert np.mean([r.stderr for r in results]) / np.std([r.value for r in results]) > 0.75
    again = sliced_wasserstein(features(x), features(x + v), 300, seed=7)
    assert again == results[7]


def test_meets_the_closed_form_of_two_gaussians():
    """The mean over fresh sets and directions is |m|^2 / d + (s - 1)^2. Its standard error is about
    2 %, and the bias at this n is smaller."""
    rng, m, s = np.random.default_rng(1), np.array([1.0, -0.5, 0.0, 0.7]), 1.6
    truth = m @ m / 4 + (s - 1) ** 2
    values = [
        sliced_wasserstein(
            features(rng.normal(size=(1000, 4)) * s + m),
            features(rng.normal(size=(1300, 4))),
            100,
            r,
        ).value
        for r in range(40)
    ]
    error = np.std(values, ddof=1) / 40**0.5
    assert abs(np.mean(values) - truth) < 4 * error < 0.1 * truth


def test_samples_stderr_is_the_spread_over_fresh_samples():
    rng = np.random.default_rng(0)
    y = rng.normal(size=(220, 3))
    draws = [rng.normal(size=(200, 3)) * 1.5 + 0.5 for _ in range(80)]
    results = [sliced_wasserstein(features(x), features(y), 60) for x in draws]
    spread = np.std([r.value for r in results], ddof=1)
    assert 0.75 < np.mean([r.samples_stderr for r in results]) / spread < 1.3


def test_samples_stderr_is_the_jackknife():
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(34, 3)), rng.normal(size=(21, 3)) + 1
    rest = [x[np.arange(34) % 10 != j] for j in range(10)]
    left_out = [sliced_wasserstein(features(part), features(y), 50).value for part in rest]
    found = sliced_wasserstein(features(x), features(y), 50).samples_stderr
    np.testing.assert_allclose(found, (9 * np.var(left_out)) ** 0.5, rtol=1e-10)


def test_bias_is_upwards_and_falls_with_n():
    rng = np.random.default_rng(0)
    mean = lambda n: np.mean(
        [
            sliced_wasserstein(*(features(rng.normal(size=(n, 3))) for _ in "xy"), 20).value
            for _ in range(40)
        ]
    )
    few, many = mean(50), mean(400)
    assert 5 < few / many < 11  # 8, except for the effect of the Gaussian's tails


def test_refusals():
    x = np.random.default_rng(0).normal(size=(6, 3))
    with pytest.raises(ValueError, match="one space"):
        sliced_wasserstein(features(x), Features("other", x))
    with pytest.raises(ValueError, match="one space"):
        sliced_wasserstein(features(x), features(x[:, :2]))
    with pytest.raises(ValueError, match="at least 3"):
        sliced_wasserstein(features(x), features(x[:2]))
    with pytest.raises(ValueError, match="6 of 6 feature rows"):
        sliced_wasserstein(features(np.full((6, 3), np.nan)), features(x))
    with pytest.raises(ValueError, match="directions = 1"):
        sliced_wasserstein(features(x), features(x), 1)
