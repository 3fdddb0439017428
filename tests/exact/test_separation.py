"""Data separation gamma: quadrature for few points, the Gaussian formula, and a proven bound."""

import jax.numpy as jnp
import numpy as np
import pytest
from closed_form import Empirical
from scipy.integrate import simpson

from exact import separation
from exact.separation import estimate, gaussian_gamma
from sde_lib import EDM

pytestmark = pytest.mark.usefixtures("x64")
# Points that are not centred and whose mean square is not one.
FIVE = np.array([[1.0, 0.2], [2.1, -0.5], [0.4, 1.3], [1.6, 0.9], [1.1, 0.1]])
DRAWS = 4000


def quadrature(points, theta):
    """Return gamma by Gauss-Hermite quadrature over the noise, with the exact posterior mean."""
    n, dims = points.shape
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    z = np.stack(np.meshgrid(*[nodes] * dims), axis=-1).reshape(-1, dims)
    w = np.prod(np.meshgrid(*[weights / weights.sum()] * dims), axis=0).ravel()
    denoise = Empirical(points).predict(EDM())
    found = []
    for sigma in np.tan(theta):
        x = (points[:, None] + sigma * z[None]).reshape(-1, dims)
        x0 = np.asarray(denoise(jnp.asarray(x), sigma).x0).reshape(n, -1, dims)
        error = np.mean(np.sum((x0 - points[:, None]) ** 2, axis=-1) @ w) / dims
        found.append(1.0 - error * (1.0 + sigma**-2))
    return np.array(found)


@pytest.mark.parametrize("points", [np.array([[-1.0], [1.0]]), FIVE], ids=["two", "five"])
def test_few_points_against_quadrature(points):
    """Estimates over eight seeds equal the quadrature within the reported standard error.

    At large noise this error is very small.
    """
    runs = [estimate(points, 12, DRAWS, seed) for seed in range(8)]
    theta, scale = runs[0].theta, runs[0].scale
    truth = quadrature(points / scale, theta[4:-1])
    score = np.stack([(run.gamma[4:-1] - truth) / run.stderr[4:-1] for run in runs])
    assert np.abs(score).max() < 4.5
    assert 0.6 < np.sqrt(np.mean(score**2)) < 1.4
    assert np.all(runs[0].stderr < 0.02) and runs[0].stderr[-2] < 2e-4
    for run in runs:
        assert run.gamma[0] == 1.0
        np.testing.assert_allclose(run.gamma[-1], np.mean(points.mean(0) ** 2) / scale**2)


def test_gamma_is_that_of_the_shape_alone():
    """Scaling the data changes `scale` and nothing else."""
    one, three = estimate(FIVE, 12, 500), estimate(3.0 * FIVE, 12, 500)
    np.testing.assert_allclose(three.scale, 3.0 * one.scale, rtol=1e-12)
    np.testing.assert_allclose(three.gamma, one.gamma, rtol=1e-9)


def test_blocks_change_nothing(monkeypatch):
    whole = estimate(FIVE, 6, 100)
    monkeypatch.setattr(separation, "BLOCK", 35 * len(FIVE))
    for got, want in zip(estimate(FIVE, 6, 100), whole):
        np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-15)


def test_gaussian_data():
    """gamma of Gaussian data follows from the published `lam`, is 0 for N(0, I), and has limits."""
    theta = np.linspace(0.1, 1.5, 8)
    np.testing.assert_allclose(gaussian_gamma(theta, np.ones(3)), 0.0, atol=1e-15)
    L, mean2 = np.array([2.0, 0.7, 0.3, 0.2]), 0.2
    s2 = np.tan(theta)[:, None] ** -2
    lam = mean2 + np.mean(s2 * L**2 / (1.0 + s2 * L), axis=1)
    by_lam = 1.0 - (1.0 - lam) / np.sin(theta) ** 2
    np.testing.assert_allclose(gaussian_gamma(theta, L), by_lam, rtol=1e-9)
    np.testing.assert_allclose(gaussian_gamma([0.0, np.pi / 2], L), [0.0, mean2], atol=1e-12)
    flat = gaussian_gamma(theta, np.append(L, [0.0, 0.0]) * 1.5, dims=6)
    np.testing.assert_allclose(flat, gaussian_gamma(theta, L * 1.5, dims=6))
    np.testing.assert_allclose(gaussian_gamma(0.0, L, dims=6), 2 / 6)


def test_many_gaussian_points_approach_the_formula():
    """2000 one-dimensional points have nearly the gamma of a Gaussian, if the noise is as large."""
    x = np.random.default_rng(0).standard_normal((2000, 1)) * 0.8 + 0.6
    found = estimate(x, 12, DRAWS)
    near = found.theta > 0.6
    exact = gaussian_gamma(found.theta[near], np.array([np.var(x) / np.mean(x**2)]))
    np.testing.assert_allclose(found.gamma[near], exact, atol=0.01)


@pytest.mark.parametrize("n, dims", [(2, 1024), (4, 784), (8, 3136)])
def test_bound_on_the_separation_of_few_points(n, dims):
    """Theorem 4.1: `int 1 - lam ds <= 3 n / sqrt(D)`, an integral of 1 - gamma over theta.

    Here the bound is well below pi / 2, which holds for all data.
    """
    x = np.random.default_rng(0).standard_normal((n, dims))
    found = estimate(x, 40, 1000)
    integral = simpson(1.0 - found.gamma, x=found.theta)
    assert 0.0 < integral < 3.0 * n / dims**0.5 < 0.5


@pytest.mark.parametrize(
    "data, nodes, draws, message",
    [
        (np.zeros((5, 2)), 8, 10, "root mean square of 0.0"),
        (np.ones((1, 2)), 8, 10, "have 1 examples"),
        (np.ones((0, 2)), 8, 10, "have 0 examples"),
        (FIVE, 8, 1, "draws is 1"),
        (FIVE, 1, 10, "nodes is 1"),
    ],
)
def test_refusals(data, nodes, draws, message):
    with pytest.raises(ValueError, match=message):
        estimate(data, nodes, draws)
