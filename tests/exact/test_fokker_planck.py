"""Densities and scores on a grid, against laws with known densities."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closed_form import M1
from scipy.stats import norm

from exact.fokker_planck import GridDensity, fokker_planck, spectral_gap
from likelihood import DIVERGENCES, log_likelihood
from samplers import Solver
from sde_lib import VP, flow_drift, reverse_drift
from sde_lib.double_well import DoubleWell
from sde_lib.score_only import score_only

pytestmark = pytest.mark.usefixtures("x64", "strict_ranks")
VP_LAW = VP(t0=0.02)
WELL = DoubleWell(linear=-0.3, cubic=0.5, g=0.8, t1=3.0)
PEAKS = lambda x: np.log(0.3 * norm.pdf(x, -1.5, 0.3) + 0.7 * norm.pdf(x, 0.5, 0.4))


def on_vp(n, m):
    logp = lambda x: exact(x, np.asarray([VP_LAW.t0]))[0][0]
    return fokker_planck(VP_LAW, logp, np.linspace(-6.0, 6.0, n), np.linspace(0.02, 1.0, m), 2)


def test_mixture_under_vp():
    """Density and score of M1 under VP converge with order 2 in the widths of space and time.

    VP's drift and noise depend on time.
    """
    errors = []
    for n, m in ((201, 26), (401, 51), (801, 101)):
        density = on_vp(n, m)
        # Compare at the nodes, where nothing is interpolated.
        nodes, times = density.grid, density.times[1 :: (m - 1) // 25]
        middle = 0.5 * (nodes[1:] + nodes[:-1])
        logp, score = exact(nodes, times)[0], exact(middle, times)[1]
        p = np.exp(logp) / np.sum(np.exp(logp), 1, keepdims=True)
        off = density.table[1 :: (m - 1) // 25] - logp, density.slopes[1 :: (m - 1) // 25] - score
        errors.append([np.sqrt(np.mean(np.sum(p[:, : v.shape[1]] * v**2, 1))) for v in off])
    orders = np.log2(np.asarray(errors[:-1]) / np.asarray(errors[1:]))
    assert np.all((orders > 1.7) & (orders < 2.3)), orders
    assert np.all(np.asarray(errors[-1]) < [4e-4, 2e-3]), errors


def exact(x, times):
    """Return log p and score of M1 under VP, `(m, n)` each."""
    a, c = (np.asarray(v)[:, None, None] for v in VP_LAW.coeffs(np.asarray(times)))
    means, variances = a * M1.means[:, 0], a**2 * M1.stds**2 + c**2
    d = x[None, :, None] - means
    p = M1.weights * np.exp(-0.5 * d**2 / variances) / np.sqrt(2.0 * np.pi * variances)
    return np.log(p.sum(-1)), -(p * d / variances).sum(-1) / p.sum(-1)


def test_interpolation():
    """Between nodes the cubic has at least order 3 and a continuous slope; time is linear."""
    x = np.linspace(-0.9, 0.9, 181)[:, None]
    errors = []
    for n in (21, 41, 81):
        grid = np.linspace(-2.0, 2.0, n)
        table = np.sin(grid) * np.asarray([[1.0], [3.0]])
        density = GridDensity(grid, np.asarray([1.0, 3.0]), table, np.diff(table) / (4.0 / (n - 1)))
        found = jax.jit(density.logp)(x, 1.5)
        errors.append(np.max(np.abs(found - 1.5 * np.sin(x[:, 0]))))
    assert np.all(np.log2(np.asarray(errors[:-1]) / np.asarray(errors[1:])) > 2.7), errors
    slope = jax.jit(jax.vmap(jax.grad(lambda v: density.logp(v[None, None], 1.0)[0])))
    at = grid[20:60]
    # Slopes below and above a node; the second derivative jumps, by less than 0.1 here.
    np.testing.assert_allclose(slope(at - 1e-9), slope(at + 1e-9), atol=1e-9)


class Student:
    """`dx = -x dt + sqrt(1 + x^2) dw`, with the stationary law `p ~ (1 + x^2)^-2` (Student's)."""

    diffusion_type = "diagonal"

    def drift(self, x, t):
        return -x

    def diffusion(self, x, t):
        return jnp.sqrt(1.0 + x**2)


def test_noise_that_depends_on_the_state():
    grid = np.linspace(-20.0, 20.0, 1601)
    start = lambda x: norm.logpdf(x, 1.0, 0.5)
    density = fokker_planck(Student(), start, grid, np.asarray([0.0, 20.0]), 100)
    rest = np.log(2.0 / np.pi) - 2.0 * np.log1p(grid**2)
    near = np.abs(grid) < 5.0
    # Beyond the grid lies 8e-5 of the mass.
    np.testing.assert_allclose(density.table[1][near], rest[near], atol=2e-3)


@functools.cache
def well():
    times = 3.0 * np.linspace(0.0, 1.0, 121) ** 2
    return fokker_planck(WELL, PEAKS, np.linspace(-4.0, 4.0, 601), times)


def test_coordinates_are_independent():
    density, x = well(), np.random.default_rng(0).uniform(-1.5, 1.5, (3, 2, 2))
    t = np.asarray([0.0, 0.4, 3.0])
    one = jax.value_and_grad(lambda v, t: density.logp(v[None, None], t)[0])

    @jax.jit
    def run(x, t):
        alone = jax.vmap(one)(x.ravel(), jnp.repeat(t, 4))
        return density.score(x, t), density.logp(x, t), *alone

    score, logp, alone, slope = jax.device_get(run(x, t))
    assert score.shape == x.shape and logp.shape == (3,)
    np.testing.assert_allclose(logp, alone.reshape(3, 4).sum(1), rtol=1e-12)
    # The score interpolates differences of log p, the slope is that of interpolated log p.
    np.testing.assert_allclose(score.ravel(), slope, rtol=2e-3, atol=1e-3)
    np.testing.assert_allclose(logp[0], np.sum(PEAKS(x[0])), atol=1e-3)


def test_likelihood_of_a_law_that_is_not_affine():
    """With the density at t1 as prior, log p by the flow equals the density at t0.

    So two different uses of the score agree.
    """
    density, x = well(), np.asarray([[-1.8, 0.5], [-1.4, 0.2], [0.1, -0.4], [1.2, 0.6]])

    @jax.jit
    def run(x):
        return log_likelihood(
            jax.random.key(0), WELL, score_only(WELL, density.score), x,
            divergence=DIVERGENCES["exact"](1), solver=Solver("tsit5", 1e-4, 1e-4),
            prior_logp=lambda x: density.logp(x, WELL.t1),
        )  # fmt: skip

    found = run(x)
    assert not np.any(found.failed)
    np.testing.assert_allclose(found.logp, np.sum(PEAKS(x), axis=1), atol=2e-3)


def test_prediction_of_a_score_alone():
    """Velocity and restored state follow from the score, which is evaluated once."""
    calls = []

    def score(x, t):
        calls.append(1)
        return jnp.sin(x) - t[:, None]

    @jax.jit
    def run(x, t):
        found = score_only(WELL, score)(x, t)
        assert len(calls) == 1 and found.eps is None
        restored = x - t[:, None] * reverse_drift(WELL, score)(x, t)
        return found, flow_drift(WELL, score)(x, t), restored

    x, t = np.asarray([[0.3], [1.0]]), np.asarray([0.2, 1.5])
    found, velocity, restored = run(x, t)
    np.testing.assert_allclose(found.score, np.sin(x) - t[:, None], rtol=1e-12)
    np.testing.assert_allclose(found.velocity, velocity, rtol=1e-12)
    np.testing.assert_allclose(found.x0, restored, rtol=1e-12)


def test_restored_state_is_the_conditional_mean_to_first_order():
    """Under VP, the restored state equals the known mean of x_t0 given x_t, up to (t - t0)^2."""
    x = np.asarray([[-1.0], [0.2], [0.9]])
    predict = score_only(VP_LAW, M1.score(VP_LAW))

    @jax.jit
    def error(t):
        at = M1.predict(VP_LAW)(x, t)
        (a_0, c_0), (a_t, c_t) = (VP_LAW.coeffs(v) for v in (jnp.asarray(VP_LAW.t0), t))
        mean = a_0 * at.x0 + a_t / a_0 * c_0**2 / c_t * at.eps
        return jnp.max(jnp.abs(predict(x, t).x0 - mean))

    errors = [error(t) for t in (0.03, 0.025, 0.0225)]
    assert np.all(np.log2(np.asarray(errors[:-1]) / np.asarray(errors[1:])) > 1.8), errors


def test_gap_is_the_rate_of_relaxation():
    """The distance to the stationary law falls by `exp(-gap)` per unit of time at late times.

    Then only the slowest mode is left. The data lie on one side, so that they contain this mode.
    """
    grid = np.linspace(-4.0, 4.0, 401)
    times = np.asarray([0.0, 4.0, 6.0])
    density = fokker_planck(WELL, lambda x: norm.logpdf(x, 1.0, 0.3), grid, times, 100)
    rest = np.exp(np.asarray(WELL.prior_logp(jnp.asarray(grid)[:, None])))
    far, near = (np.abs(np.exp(row) - rest).sum() for row in density.table[1:])
    assert abs(np.log(far / near) / 2.0 / spectral_gap(WELL, grid) - 1.0) < 5e-3


@pytest.mark.parametrize(
    ("grid", "times", "message"),
    [
        (np.asarray([0.0, 1.0, 3.0]), np.asarray([0.0, 1.0]), "even, rising points"),
        (np.linspace(1.0, -1.0, 5), np.asarray([0.0, 1.0]), "even, rising points"),
        (np.linspace(-1.0, 1.0, 5), np.asarray([0.0, 1.0, 1.0]), "rise strictly"),
        (np.linspace(-1.0, 1.0, 5), np.asarray([0.0]), "two or more"),
    ],
)
def test_refusals(grid, times, message):
    with pytest.raises(ValueError, match=message):
        fokker_planck(WELL, PEAKS, grid, times)


def test_a_matrix_law_is_refused():
    law = Student()
    law.diffusion_type = "matrix"
    with pytest.raises(ValueError, match="needs one dimension"):
        spectral_gap(law, np.linspace(-1.0, 1.0, 5))
