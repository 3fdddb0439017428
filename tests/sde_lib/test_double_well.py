"""The double-well law: its prior against quadrature, its motion against the Fokker-Planck grid."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import quad
from scipy.special import gamma, ive, kve
from scipy.stats import kstest, norm

from exact.fokker_planck import fokker_planck, spectral_gap
from sde_lib import VP, example_keys
from sde_lib.double_well import DoubleWell
from sde_lib.simulate import simulate

LAWS = {
    "double": DoubleWell(),
    "deep": DoubleWell(linear=2.0, cubic=0.5, g=0.9),
    "cubic": DoubleWell(linear=0.0, cubic=1.0, g=1.0),
    "single": DoubleWell(linear=-0.7, cubic=0.3, g=1.3),
    "straight": DoubleWell(linear=-0.5, cubic=0.0, g=1.0),
}
laws = pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)


def normaliser(law):
    """`int exp(-(A x^4 + B x^2)) dx` in closed form."""
    A, B = 0.5 * law.cubic / law.g**2, -law.linear / law.g**2
    if A == 0.0:
        return np.sqrt(np.pi / B)
    if B == 0.0:
        return 2.0 * gamma(1.25) / A**0.25
    y = B**2 / (8.0 * A)
    if B > 0.0:
        return 0.5 * np.sqrt(B / A) * kve(0.25, y)
    return 0.5 * np.pi * np.sqrt(-B / (2.0 * A)) * np.exp(2.0 * y) * (ive(0.25, y) + ive(-0.25, y))


@partial(jax.jit, static_argnums=0)
def density_and_slopes(law, x):
    slope = jax.grad(lambda x: jnp.sum(law.prior_logp(x)))(x)
    return law.prior_logp(x), slope, law.prior_score(x), law.drift(x, 0.3)


@partial(jax.jit, static_argnums=(0, 2))
def prior_sample(law, key, shape):
    return law.prior_sample(key, shape)


@laws
def test_prior_has_the_density_it_states(law, x64, strict_ranks):
    """`prior_logp` is normalised, in nats, a sum over coordinates; its score is `2 drift / g^2`."""
    x = np.random.default_rng(0).uniform(-2.0, 2.0, (5, 2, 3))
    weight = law.linear * x**2 - 0.5 * law.cubic * x**4
    expected = np.sum(weight / law.g**2 - np.log(normaliser(law)), axis=(1, 2))
    logp, slope, score, drift = jax.device_get(density_and_slopes(law, x))
    np.testing.assert_allclose(logp, expected, rtol=1e-9)
    np.testing.assert_allclose(score, slope, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(drift, 0.5 * law.g**2 * slope, rtol=1e-9, atol=1e-12)


@laws
def test_prior_draws_have_the_prior_law(law):
    """Kolmogorov-Smirnov test of draws; a right sampler gives p below 1e-3 once in 1000 seeds."""
    x = np.asarray(prior_sample(law, jax.random.key(0), (2000, 2)), np.float64)
    density = lambda x: np.exp(law.log_weight(x)) / normaliser(law)
    grid = np.linspace(-6.0, 6.0, 200)
    parts = [quad(density, a, b)[0] for a, b in itertools.pairwise(grid)]
    cdf = lambda x: np.interp(x, grid, np.concatenate([[0.0], np.cumsum(parts)]))
    for column in x.T:
        assert kstest(column, cdf).pvalue > 1e-3
    assert abs(np.corrcoef(x.T)[0, 1]) < 4 / np.sqrt(2000)


def test_draws_belong_to_examples():
    """The third of four examples gets the same draw when it is drawn alone."""
    law, t = LAWS["double"], np.asarray([0.1, 0.5, 1.0, 2.0], np.float32)

    @jax.jit
    def run(indices, t):
        keys = example_keys(0, indices)
        x = law.prior_sample(keys, (len(indices), 2, 2))
        return x, simulate(law, keys, x, t, 20)

    (x, moved), (x_alone, moved_alone) = (
        jax.device_get(run(i, t[i])) for i in (np.arange(4), np.array([2]))
    )
    np.testing.assert_array_equal(x[2:3], x_alone)
    np.testing.assert_array_equal(moved[2:3], moved_alone)


def test_prior_stays_where_it_is(x64):
    """The prior is stationary, by the Fokker-Planck equation and by simulation."""
    law, grid = LAWS["deep"], np.linspace(-4.5, 4.5, 901)
    logp = lambda x: np.asarray(jax.jit(law.log_weight)(x))
    density = fokker_planck(law, logp, grid, np.linspace(0.0, 20.0, 11))
    seen = np.exp(density.table[0]) > 1e-8
    np.testing.assert_allclose(density.table[-1][seen], density.table[0][seen], atol=1e-3)
    x = prior_sample(law, jax.random.key(0), (8000, 1))
    # With h = 0.01 the bias of the steps is below 2 % of the mean square.
    y = jax.jit(lambda x: simulate(law, jax.random.key(1), x, 2.0, 200))(x)
    second = quad(lambda x: x**2 * np.exp(law.log_weight(x)), -6, 6)[0] / normaliser(law)
    spread = np.std(np.asarray(y) ** 2) / np.sqrt(8000)
    assert abs(np.mean(np.asarray(y) ** 2) - second) < 4 * spread


def test_simulation_follows_the_equation(x64):
    """Moments simulated from two peaks equal those of the density within 4 standard errors."""
    law, n = LAWS["double"], 20_000
    grid = np.linspace(-4.0, 4.0, 801)
    logp = lambda x: np.log(0.3 * norm.pdf(x, -1.5, 0.3) + 0.7 * norm.pdf(x, 0.5, 0.2))
    times = np.asarray([0.1, 0.5, 1.5])
    table = fokker_planck(law, logp, grid, np.concatenate([[0.0], times]), 60).table[1:]
    rng = np.random.default_rng(0)
    left = rng.random((n, 1)) < 0.3
    x0 = np.where(left, -1.5, 0.5) + np.where(left, 0.3, 0.2) * rng.standard_normal((n, 1))
    t = np.repeat(times, n)
    x = jax.jit(lambda x: simulate(law, jax.random.key(2), x, t, 200))(np.tile(x0, (3, 1)))
    for y, row in zip(np.asarray(x).reshape(3, n), table):
        p = np.exp(row) / np.sum(np.exp(row))
        for power in (1, 2, 3):
            truth = np.sum(p * grid**power)
            assert abs(np.mean(y**power) - truth) < 4 * np.std(y**power) / np.sqrt(n)


def test_straight_case_is_vp(x64):
    """With cubic = 0, drift, diffusion, prior and spectral gap are those of VP with beta = 1."""
    law, vp = LAWS["straight"], VP(beta_min=1.0, beta_max=1.0)
    x, t = np.asarray([[-1.0], [0.3]]), np.float64(0.4)
    for name in ("drift", "diffusion"):
        np.testing.assert_allclose(getattr(law, name)(x, t), getattr(vp, name)(x, t), rtol=1e-12)
    np.testing.assert_allclose(law.prior_logp(x), vp.prior_logp(x), rtol=1e-12)
    assert abs(spectral_gap(law, np.linspace(-8.0, 8.0, 1601)) - 0.5) < 1e-4


def test_a_high_barrier():
    """Density and draws equal sums over a grid in float64, with a high barrier between the wells.

    The wells are exp(89) times as likely as the top between them, a ratio that exceeds float32.
    """
    law = DoubleWell(4.0, 1.0, 0.3)
    x = np.linspace(-4.0, 4.0, 200_001)
    weight = (4.0 * x**2 - 0.5 * x**4) / 0.09
    top = weight.max()
    mass = np.exp(weight - top) * (x[1] - x[0])
    log_z = top + np.log(mass.sum())
    known = (4.0 * 4.0 - 0.5 * 16.0) / 0.09 - log_z
    assert known == pytest.approx(0.976, abs=1e-3)
    np.testing.assert_allclose(law.prior_logp(jnp.asarray([[2.0]])), [known], atol=3e-5)
    draws = np.abs(np.asarray(law.prior_sample(jax.random.key(0), (2000, 2))))
    mean, square = (mass @ np.abs(x) ** k / mass.sum() for k in (1, 2))
    assert abs(draws.mean() - mean) < 4 * np.sqrt((square - mean**2) / draws.size)
