"""Restoration-degradation for laws that are not affine; for linear laws it is DDIM."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closed_form import M1
from fast_solvers import KEY, LAWS, rms, slope
from law_as_data import for_each
from scipy.stats import norm

from exact.fokker_planck import fokker_planck
from samplers import ddim, heun, sample
from samplers.steps.restoration_degradation import euler_restoration, number_of_steps, share_of_time
from sde_lib.double_well import DoubleWell
from sde_lib.score_only import score_only

pytestmark = pytest.mark.usefixtures("x64", "strict_ranks")
SIZES = (50, 200, 800)
CUBIC = DoubleWell(linear=0.0, cubic=1.0, g=1.0, t1=1.0)
WELLS = DoubleWell()
GRID = np.linspace(-4.0, 4.0, 1601)
U = (np.arange(200) + 0.5) / 200


def even(t1, sizes):
    """Return grids even in t from t1 to 0 as columns of one array; short ones repeat 0."""
    grids = [np.linspace(t1, 0.0, n + 1) for n in sizes]
    return np.stack([np.pad(ts, (0, max(sizes) + 1 - len(ts))) for ts in grids], 1)


def ends(method, predict, x, ts):
    """Return the ends `(S, B, ...)` of runs on the grids, which are the columns of ts."""
    return jax.vmap(lambda ts: sample(KEY, predict, method, x, ts).x, in_axes=1)(ts)


def quantiles(logp):
    p = np.exp(logp)
    cdf = np.concatenate([[0.0], np.cumsum(p[1:] + p[:-1])])
    return np.interp(U, cdf / cdf[-1], GRID)[:, None]


def density_of(law):
    """Return the density from M1, whose two peaks are not at the wells of the law."""
    peaks = lambda x: np.log(0.4 * norm.pdf(x, -1.2, 0.35) + 0.6 * norm.pdf(x, 0.9, 0.35))
    return fokker_planck(law, peaks, GRID, law.t1 * np.linspace(0.0, 1.0, 161) ** 2)


def distance(y, truth):
    """Return the W1 distance of ends `(S, B, 1)` to the quantiles of a law."""
    return np.mean(np.abs(np.sort(np.asarray(y), axis=1) - truth[None]), axis=(1, 2))


def test_it_is_ddim_for_every_linear_law():
    """For affine laws the step for general laws, with a look-back to the data, is DDIM's.

    In `y = x / a` over the time `(c / a)^2` any affine law is `dy = dw`, for which the Euler kernel
    is exact.
    """
    brownian = DoubleWell(linear=0.0, cubic=0.0, g=1.0)
    y = np.exp(2.0) * np.random.default_rng(0).standard_normal((30, 1))

    def both(law, y):
        def score(y, tau):
            t = law.t_of_lam(-0.5 * jnp.log(tau))
            a = law.coeffs(t).a
            return a * M1.score(law)(a * y, t)

        lam = jnp.linspace(-2.0, 2.0, 13)
        ts = law.t_of_lam(lam)
        a = law.coeffs(ts).a
        method = euler_restoration(brownian, share_of_time(1.0))
        found = sample(KEY, score_only(brownian, score), method, y, jnp.exp(-2.0 * lam)).x
        return found, sample(KEY, M1.predict(law), ddim(law), a[0] * y, ts).x / a[-1]

    run = for_each(LAWS, both)
    for name in LAWS:
        found, expected = run(name, y)
        np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-12, err_msg=name)


def test_a_law_that_is_not_affine():
    """For `dx = -x^3 dt + dw`, from the exact density at t1, W1 and path errors fall with the step.

    They fall as the root of the step or, without the root in the method, as the step. In one
    dimension the flow maps quantiles to quantiles, so the truth needs no solve.
    """
    density = density_of(CUBIC)
    x, truth = quantiles(density.table[-1]), quantiles(density.table[0])
    methods = euler_restoration(CUBIC), euler_restoration(CUBIC, number_of_steps(1), False)

    @jax.jit
    def run(x, ts):
        return [ends(m, score_only(CUBIC, density.score), x, ts) for m in methods]

    limits = (0.35, 0.6, 0.03), (0.8, 1.1, 0.002)
    for y, (low, high, end) in zip(run(x, even(1.0, SIZES)), limits):
        found = distance(y, truth)
        # Restored samples keep their order, except where a step is too long.
        assert np.all(rms(y, truth) >= found) and np.all(np.diff(rms(y, truth)) < 0.0)
        assert low < slope(SIZES, found) < high and found[-1] < end


def test_from_the_wells_of_the_prior_to_the_data():
    """A whole run from quantiles of the law's prior comes near to the data.

    Over ten units of the wells' time, the bias of ell adds up, so more steps help slowly. Heun
    shows how near the exact score leads.
    """
    density = density_of(WELLS)
    x, truth = quantiles(np.asarray(WELLS.log_weight(GRID))), quantiles(density.table[0])

    @jax.jit
    def run(x, ts, ts_heun):
        by = lambda method, ts: ends(method, score_only(WELLS, density.score), x, ts)
        # `ell = sqrt(h) / 2`, the default, and `ell = 4 h`.
        rule = lambda number, root: lambda t, h: number * jnp.where(root, jnp.sqrt(h), h)
        rooted = lambda number, root: by(euler_restoration(WELLS, rule(number, root)), ts)
        return (
            jax.vmap(rooted)(jnp.asarray([0.5, 4.0]), jnp.asarray([True, False])),
            by(euler_restoration(WELLS, number_of_steps(1), False), ts),
            by(heun(WELLS), ts_heun),
        )

    found = run(x, even(WELLS.t1, (100, 400, 1600)), even(WELLS.t1, (100,)))
    (root, stalled), linear, by_heun = (jax.tree.map(lambda y: distance(y, truth), part)
                                        for part in ([*found[0]], *found[1:]))  # fmt: skip
    before = distance(x[None], truth)[0]
    assert np.all(np.diff(root) < 0.0) and np.all(np.diff(linear) < 0.0)
    assert linear[-1] < 0.25 * before and linear[-1] < root[-1] < before < 2.0 * stalled[-1]
    assert abs(stalled[2] / stalled[1] - 1.0) < 0.1
    # At t1 = 10, 1.5 % of the slowest mode remains.
    assert by_heun[0] < 0.06 * before


class Geometric:
    """`dx = mu x dt + sigma x dw`: log-normal data stay log-normal, so the flow is known."""

    t0, t1, diffusion_type, mu, sigma = 0.0, 1.0, "diagonal", 0.3, 0.6

    def drift(self, x, t):
        return self.mu * x

    def diffusion(self, x, t):
        return self.sigma * x

    def log_moments(self, t):
        return 0.2 + (self.mu - 0.5 * self.sigma**2) * t, 0.16 + self.sigma**2 * t

    def predict(self, x, t):
        mean, variance = self.log_moments(t)
        return score_only(self, lambda x, t: -(1.0 + (jnp.log(x) - mean) / variance) / x)(x, t)


def test_noise_that_depends_on_the_state():
    law, x = Geometric(), np.array([[0.5], [1.0], [2.0], [4.0]])
    (m0, S0), (m1, S1) = law.log_moments(0.0), law.log_moments(1.0)
    truth = np.exp(m0 + np.sqrt(S0 / S1) * (np.log(x) - m1))
    methods = euler_restoration(law), euler_restoration(law, number_of_steps(1), False)
    run = jax.jit(lambda x, ts: [ends(method, law.predict, x, ts) for method in methods])
    for y, (low, high) in zip(run(x, even(1.0, SIZES)), ((0.4, 0.7), (0.9, 1.1))):
        found = rms(y, truth)
        assert low < slope(SIZES[1:], found[1:]) < high and found[-1] < 0.1
