"""Restoration-degradation for affine laws, by the exact and the Euler kernel."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closed_form import M1, Gaussian, w2
from fast_solvers import KEY, LAWS, rms, slope
from law_as_data import for_each
from rk4 import runge_kutta
from scipy.stats import norm

from samplers import Span, ddim, sample
from samplers.steps.restoration_degradation import (
    euler_restoration,
    number_of_steps,
    restoration_degradation,
    restore,
    share_of_time,
)
from sde_lib import EDM, VP

pytestmark = pytest.mark.usefixtures("x64", "strict_ranks")
LAW, SIZES = VP(), (50, 200, 800)
DATA = Gaussian(np.array([0.4, -0.7]), np.array([[0.5, 0.2], [0.2, 0.3]]))
# Quantiles of the normal law as starts; their mean square error is that of very many random ones.
QUANTILES = norm.ppf((np.arange(400) + 0.5) / 400)[:, None]
TIMES = np.linspace(-2.0, 2.0, 13)


def even(first, last, sizes):
    """Return grids even in t as columns of one array; short ones repeat their last time."""
    grids = [np.linspace(first, last, n + 1) for n in sizes]
    return np.stack([np.pad(ts, (0, max(sizes) + 1 - len(ts)), "edge") for ts in grids], 1)


def ends(method, predict, x, ts):
    """Return the ends `(S, B, ...)` of runs on the grids, which are the columns of ts."""
    return jax.vmap(lambda ts: sample(KEY, predict, method, x, ts).x, in_axes=1)(ts)


@pytest.fixture(scope="module")
def solution():
    with jax.enable_x64(True):
        return np.asarray(jax.jit(lambda x: runge_kutta(LAW, M1, x, 0.05, 1000))(QUANTILES))


# RMS errors on M1 from 1 to 0.05 in N even steps, by an independent implementation. The look-back
# is a number of steps ("h"), or a share of t.
REFERENCE = {
    (2.0, "h"): (4.2e-1, 4.7e-1, 4.8e-1),
    (8.0, "h"): (5.7e-2, 8.7e-2, 1.0e-1),
    (32.0, "h"): (2.5e-2, 1.4e-2, 2.1e-2),
    (0.25, "t"): (9.3e-2, 1.9e-2, 4.8e-3),
    (0.5, "t"): (3.5e-2, 8.6e-3, 2.1e-3),
    (1.0, "t"): (2.5e-2, 6.2e-3, 1.5e-3),
}


def test_errors_on_a_mixture(solution):
    """A look-back that is a share of t gives order 1; one of a number of steps gives a bias."""

    @jax.jit
    def run(number, of_time, x, ts):
        rule = lambda t, h: number * jnp.where(of_time, t, h)
        return ends(restoration_degradation(LAW, rule), M1.predict(LAW), x, ts)

    ts = even(1.0, 0.05, SIZES)
    for (number, of), reference in REFERENCE.items():
        errors = rms(run(number, of == "t", QUANTILES, ts), solution)
        np.testing.assert_allclose(errors, reference, rtol=0.05, err_msg=f"{number} {of}")
        if of == "t":
            assert 0.95 < slope(SIZES[1:], errors[1:]) < 1.05


def test_back_to_the_data_is_ddim():
    """A look-back to the data gives DDIM for every law.

    The rule `ell = t` gives the same if the law has no noise at time 0.
    """
    x = np.random.default_rng(0).standard_normal((15, 2))

    def run(law, x):
        methods = (
            ddim(law),
            restoration_degradation(law),
            restoration_degradation(law, share_of_time(1.0)),
        )
        ts = law.t_of_lam(jnp.asarray(TIMES))
        return [sample(KEY, DATA.predict(law), method, x, ts).x for method in methods]

    run = for_each(LAWS, run)
    for name in LAWS:
        expected, found, by_rule = run(name, x)
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-14, err_msg=name)
        if name != "ve":
            np.testing.assert_allclose(by_rule, expected, rtol=1e-12, atol=1e-14, err_msg=name)


def test_steps_as_they_are_written():
    """A step equals its formulas in NumPy.

    They are `x' = (x + V score) / k`, `z = (x - k x') / sqrt(V)`, and `k' x' + sqrt(V') z`.
    """
    share, start = 0.4, np.random.default_rng(0).standard_normal((10, 2))

    def run(law, x):
        ts = law.t_of_lam(jnp.asarray(TIMES))
        coeffs = [law.coeffs(t) for t in (jnp.minimum(ts[:-1] * (1.0 - share), ts[1:]), ts)]
        return sample(KEY, DATA.predict(law), restoration_degradation(law, share), x, ts).x, coeffs

    run = for_each(LAWS, run)
    for name in LAWS:
        found, (at_u, at) = jax.device_get(run(name, start))
        x, levels = start, [*zip(at.a, at.c)]
        for a_u, c_u, (a_t, c_t), (a_s, c_s) in zip(at_u.a, at_u.c, levels, levels[1:]):
            k, k_s = a_t / a_u, a_s / a_u
            V, V_s = c_t**2 - k**2 * c_u**2, max(c_s**2 - k_s**2 * c_u**2, 0.0)
            cov = a_t**2 * DATA.cov + c_t**2 * np.eye(2)
            score = -np.linalg.solve(cov, (x - a_t * DATA.mean[None]).T).T
            restored = (x + V * score) / k
            x = k_s * restored + np.sqrt(V_s) * (x - k * restored) / np.sqrt(V)
        np.testing.assert_allclose(found, x, rtol=1e-7, atol=1e-9, err_msg=name)


def test_simulated_noise_has_less_than_unit_variance():
    """The simulated noise is a conditional mean, so its variance is V / v for each mode."""
    std, shares = 0.6, np.array([0.2, 0.7, 0.999])
    data = Gaussian.scalar(0.2, std)
    # Five points of mean square 1.
    points = np.array([[-2.0], [-1.0], [0.0], [1.0], [2.0]]) / np.sqrt(2.0)

    def run(law, points, shares):
        t = law.t_of_lam(jnp.asarray(0.3))
        a, c = law.coeffs(t)
        v = a**2 * std**2 + c**2
        x = 0.2 * a + jnp.sqrt(v) * points
        prediction = data.predict(law)(x, t)

        def back(share):
            kernel = law.forward_step(t * (1.0 - share), t)
            return kernel, restore(prediction, law.coeffs(t * (1.0 - share)), kernel, c)

        to_data = law.coeffs(t)._replace(a=jnp.ones(()), c=jnp.zeros(()))
        kernel = law.forward_step(t, t)._replace(r=a, q=c)
        z = restore(prediction, to_data, kernel, c)[1]
        return v, x, jax.vmap(back)(shares), z, prediction.eps

    run = for_each(LAWS, run)
    for name in LAWS:
        v, x, ((r, q), (restored, z)), of_data, eps = jax.device_get(run(name, points, shares))
        np.testing.assert_allclose(np.mean(z**2, axis=(1, 2)), q**2 / v, rtol=1e-10)
        r, q = r[:, None, None], q[:, None, None]
        whole = np.broadcast_to(x, z.shape)
        np.testing.assert_allclose(r * restored + q * z, whole, rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(of_data, eps, rtol=1e-12)
        assert np.mean(of_data**2) < 1.0


def test_one_step_has_the_drift_of_the_flow():
    """A step has the flow's drift, up to O(h) with the exact kernel, for any ell.

    With the Euler kernel the error is O(ell). Its factor is half of the change of the forward drift
    along the reverse path, `-(f_x R + f_t) / 2`.
    """
    x, t, sizes = np.array([[-1.5], [-0.8], [0.1], [0.6], [1.4]]), 0.5, np.array([1e-5, 1e-6])

    @jax.jit
    @jax.vmap
    def drifts(ell, h):
        """Return the mean drift over a step of h by three methods, `(3, B, 1)`."""
        fixed = lambda t, h: jnp.full_like(h, ell)
        steps = restoration_degradation(LAW, fixed), euler_restoration(LAW, fixed, root=False)
        steps += (euler_restoration(LAW, fixed),)
        now = jnp.asarray(t)
        ends = [m.step(KEY, M1.predict(LAW), m.init(x, now), Span(now, now - h)).x for m in steps]
        return (jnp.stack(ends) - x[None]) / -h

    score, f, g2, rate = M1.score(LAW)(x, t), -0.5 * (0.1 + 19.9 * t), 0.1 + 19.9 * t, -0.5 * 19.9
    truth, reverse = f * x - 0.5 * g2 * score, f * x - g2 * score
    ells = np.array([0.02, 0.4])
    off = np.asarray(drifts(np.repeat(ells, 2), np.tile(sizes, 2))).reshape(2, 2, 3, 5, 1)
    off = off - truth[None, None, None]
    for ell, (coarse, fine) in zip(ells, off):
        np.testing.assert_allclose(fine[0], 0.1 * coarse[0], rtol=0.02, atol=1e-7)
        assert np.max(np.abs(coarse[0])) < 1e-2
        # VP's drift is linear in x and in t, so the only other term is the product of both.
        expected = -0.5 * ell * (f * reverse + rate * x) + 0.5 * ell**2 * rate * reverse
        np.testing.assert_allclose(fine[1], expected, rtol=1e-4, atol=1e-6)
        # The root adds h / (8 ell) times `R - f`, which is 1e-5 here.
        atol = 2e-6 / ell * np.max(np.abs(reverse)) + 1e-6
        np.testing.assert_allclose(fine[2], fine[1], atol=atol)


def test_so_many_steps_have_a_known_limit():
    """With `ell = c h`, steps converge to another field than the flow, `f - w G^2 score`.

    The weight is `w = 1 / (1 + sqrt(1 - 1 / c))` instead of 1/2. Under EDM, Gaussian data are
    narrowed by `(v_s / v_t)^w` instead of `(v_s / v_t)^(1/2)`.
    """
    law, std, (t, s) = EDM(), 0.7, (2.0, 0.2)
    counts = np.array([1.0, 2.0, 8.0])
    gain = (std**2 + s**2) / (std**2 + t**2)

    @jax.jit
    @jax.vmap
    def run(count):
        rule = number_of_steps(count)
        methods = restoration_degradation(law, rule), euler_restoration(law, rule)
        methods += (euler_restoration(law, rule, root=False),)
        predict = Gaussian.scalar(0.0, std).predict(law)
        return [ends(m, predict, jnp.ones((1, 1)), even(t, s, SIZES)) for m in methods]

    w = 1.0 / (1.0 + np.sqrt(1.0 - 1.0 / counts))
    by_kernel, by_euler, rootless = (np.abs(np.asarray(x)[..., 0, 0]) for x in run(counts))
    for i, limit in enumerate(gain**w):
        for found, exact in ((by_kernel[i], counts[i] == 1.0), (by_euler[i], False)):
            off = np.abs(found - limit)
            # With the exact kernel and c = 1, a step is the posterior mean for any h, `v_s/v_t`.
            assert np.all(off < 1e-14) if exact else 0.9 < slope(SIZES[1:], off[1:]) < 1.1
            assert off[-1] < 0.05 * abs(limit - gain**0.5)
        # Without the root there is no such bias; as this law has no drift, it is Euler on the flow.
        assert 0.9 < slope(SIZES[1:], np.abs(rootless[i] - gain**0.5)[1:]) < 1.1


def test_euler_kernel_on_vp(solution):
    """With the Euler kernel on VP, the error's order depends on the look-back.

    With `ell ~ sqrt(h)` the error falls as `sqrt(h)`. With `ell = 2 h` it does not fall. Without
    the root it has order 1. All are slow here, because the drift is stiff.
    """
    sizes, x, truth = (200, 800, 3200), QUANTILES[::10], solution[::10]

    @jax.jit
    def run(x, ts):
        of = lambda *args: ends(euler_restoration(LAW, *args), M1.predict(LAW), x, ts)
        rule = lambda number, root: lambda t, h: number * jnp.where(root, jnp.sqrt(h), h)
        by_rule = jax.vmap(lambda number, root: of(rule(number, root)))
        rooted = by_rule(jnp.asarray([0.25, 2.0]), jnp.asarray([True, False]))
        return rooted, jax.vmap(lambda count: of(number_of_steps(count), False))(jnp.arange(1, 3))

    rooted, linear = run(x, even(1.0, 0.05, sizes))
    by_root, stalled = (rms(x, truth) for x in rooted)
    assert 0.4 < slope(sizes[1:], by_root[1:]) < 0.6
    assert stalled[-1] > 0.4 and slope(sizes[1:], stalled[1:]) < 0.05
    for x in linear:
        assert 0.9 < slope(sizes[1:], rms(x, truth)[1:]) < 1.1


def test_the_default_rules():
    """A number is a share of t for one method, and the factor c of `c sqrt(h)` for the other."""
    x, (t, s) = QUANTILES[::40], np.array([0.7, 0.6])

    @jax.jit
    def run(x, t, s):
        methods = [
            restoration_degradation(LAW, 0.3),
            restoration_degradation(LAW, share_of_time(0.3)),
        ]
        methods += [euler_restoration(LAW, c) for c in (0.25, lambda t, h: 0.25 * jnp.sqrt(h))]
        return [m.step(KEY, M1.predict(LAW), m.init(x, t), Span(t, s)).x for m in methods]

    share, of_time, scale, of_root = run(x, t, s)
    np.testing.assert_array_equal(share, of_time)
    np.testing.assert_array_equal(scale, of_root)


def test_distance_of_the_law_to_the_data_falls():
    """W2 between the samples' law and the exact marginal falls as 1 / N.

    For Gaussian data a step is affine in x, so W2 follows exactly from the ends of three points.
    """
    x, sizes = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]), (40, 80, 160, 320)
    lam = even(-4.0, 3.0, sizes)

    @jax.jit
    @jax.vmap
    def run(share):
        ts = LAW.t_of_lam(lam)
        return ends(restoration_degradation(LAW, share_of_time(share)), DATA.predict(LAW), x, ts)

    start, end = (DATA.moments(LAW, t) for t in np.asarray(LAW.t_of_lam(np.array([-4.0, 3.0]))))
    for found in np.asarray(run(np.array([0.3, 1.0]))):
        distances = []
        for y in found:
            A = (y[1:] - y[0]).T
            distances.append(w2(A @ start[0] + y[0], A @ start[1] @ A.T, *end))
        assert np.all(np.diff(distances) < 0.0)
        assert 0.9 < slope(sizes[2:], distances[2:]) < 1.1


def test_times_by_example_and_steps_of_no_length():
    x, t, s = QUANTILES[::150], np.array([0.9, 0.5, 0.1]), np.array([0.8, 0.2, 0.1])

    @jax.jit
    def run(x, t, s):
        def one(method):
            step = lambda t, s: method.step(KEY, M1.predict(LAW), method.init(x, t), Span(t, s)).x
            return step(t, s), jax.vmap(step)(t, s)

        methods = (
            restoration_degradation(LAW, 0.3),
            restoration_degradation(LAW),
            euler_restoration(LAW),
        )
        return [one(method) for method in methods]

    for together, alone in run(x, t, s):
        own = [each[i] for i, each in enumerate(np.asarray(alone))]
        np.testing.assert_allclose(together, own, rtol=1e-12)
        np.testing.assert_allclose(together[2], x[2], rtol=1e-12)


@pytest.mark.parametrize("share", [0.0, 1.5, float("nan")])
def test_a_share_outside_the_path_is_refused(share):
    with pytest.raises(ValueError, match=f"look_back is {share}; as a share of t"):
        restoration_degradation(LAW, share)
    if not share > 1.0:
        with pytest.raises(ValueError, match=f"look_back is {share}; as c of"):
            euler_restoration(LAW, share)
