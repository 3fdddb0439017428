"""Restoration-degradation of affine laws by the exact and the Euler kernel, against exact flows."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closed_form import M1, Gaussian, w2
from fast_solvers import KEY, LAWS, rms, slope, starts
from rk4 import runge_kutta

from samplers import ddim, sample
from samplers.restoration import (
    euler_restoration,
    number_of_steps,
    restoration,
    restore,
    share_of_time,
)
from sde_lib import EDM, VP, flow_drift

pytestmark = pytest.mark.usefixtures("x64", "strict_ranks")
LAW, SIZES = VP(), (50, 200, 800)
DATA = Gaussian(np.array([0.4, -0.7]), np.array([[0.5, 0.2], [0.2, 0.3]]))
laws = pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)


def even(first, last, sizes):
    """Grids even in t as the columns of one array, the short ones resting at their end."""
    grids = [np.linspace(first, last, n + 1) for n in sizes]
    return np.stack([np.pad(ts, (0, max(sizes) + 1 - len(ts)), "edge") for ts in grids], 1)


def ends(method, predict, x, ts):
    """Where each of the grids, the columns of ts, ends: `(S, B, ...)`."""
    return jax.jit(jax.vmap(lambda ts: sample(KEY, predict, method, x, ts).x, in_axes=1))(ts)


def even_lam(law, n, first=-2.0, last=2.0):
    return law.t_of_lam(jnp.asarray(np.linspace(first, last, n + 1)))


@functools.cache
def solution():
    return np.asarray(jax.jit(lambda x: runge_kutta(LAW, M1, x, 0.05, 1000))(starts()))


# RMS errors on M1 from 1 to 0.05 in N even steps, by an implementation of its own.
REFERENCE = [
    (number_of_steps(2), (4.2e-1, 4.7e-1, 4.8e-1)),
    (number_of_steps(8), (5.7e-2, 8.7e-2, 1.0e-1)),
    (number_of_steps(32), (2.5e-2, 1.4e-2, 2.1e-2)),
    (0.25, (9.3e-2, 1.9e-2, 4.8e-3)),
    (0.5, (3.5e-2, 8.6e-3, 2.1e-3)),
    (1.0, (2.5e-2, 6.2e-3, 1.5e-3)),
]


@pytest.mark.parametrize(
    ("look_back", "reference"), REFERENCE, ids=["2h", "8h", "32h", "0.25t", "0.5t", "t"]
)
def test_errors_on_a_mixture(look_back, reference):
    """A share of t is of order 1, and the longer the better; so many steps are a bias."""
    x = ends(restoration(LAW, look_back), M1.predict(LAW), starts(), even(1.0, 0.05, SIZES))
    errors = rms(x, solution())
    np.testing.assert_allclose(errors, reference, rtol=0.05)
    if not callable(look_back):
        assert 0.95 < slope(SIZES[1:], errors[1:]) < 1.05


@laws
def test_back_to_the_data_is_ddim(law):
    """Equal on every law, and by the rule `ell = t` where the law has no noise at time 0."""
    ts, x = even_lam(law, 12), jnp.asarray(starts(30).reshape(15, 2))
    predict = DATA.predict(law)
    runs = jax.jit(
        lambda x: [
            sample(KEY, predict, method, x, ts).x
            for method in (ddim(law), restoration(law), restoration(law, share_of_time(1.0)))
        ]
    )
    expected, found, by_rule = runs(x)
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-14)
    if law is not LAWS["ve"]:
        np.testing.assert_allclose(by_rule, expected, rtol=1e-12, atol=1e-14)


@laws
def test_steps_as_they_are_written(law):
    """`x' = (x + V score) / k`, `z = (x - k x') / sqrt(V)`, `k' x' + sqrt(V') z`, in NumPy."""
    ts, share = np.asarray(even_lam(law, 10)), 0.4
    x = first = starts(20).reshape(10, 2)
    coeffs = lambda t: [float(v) for v in law.coeffs(jnp.asarray(t))]
    for t, s in itertools.pairwise(ts):
        u = min(t - share * t, s)
        (a_u, _, c_u), (a_t, _, c_t), (a_s, _, c_s) = coeffs(u), coeffs(t), coeffs(s)
        k, k_s = a_t / a_u, a_s / a_u
        V, V_s = c_t**2 - k**2 * c_u**2, max(c_s**2 - k_s**2 * c_u**2, 0.0)
        mean, cov = DATA.moments(law, t)
        score = -np.linalg.solve(cov, (x - mean[None]).T).T
        restored = (x + V * score) / k
        x = k_s * restored + np.sqrt(V_s) * (x - k * restored) / np.sqrt(V)
    method = restoration(law, share)
    found = jax.jit(lambda x: sample(KEY, DATA.predict(law), method, x, jnp.asarray(ts)).x)(first)
    np.testing.assert_allclose(found, x, rtol=1e-7, atol=1e-9)


@laws
def test_simulated_noise_has_less_than_unit_variance(law):
    """From any u the noise found is a mean: of each mode the part V / v of a unit of it."""
    std, t = 0.6, law.t_of_lam(jnp.asarray(0.3))
    data = Gaussian.scalar(0.2, std)
    mean, cov = data.moments(law, t)
    # Five points whose mean square about the mean of x_t is its variance.
    x = mean[0] + np.sqrt(cov[0, 0] / 2.0) * jnp.asarray([[-2.0], [-1.0], [0.0], [1.0], [2.0]])
    prediction, c_t = data.predict(law)(x, t), law.coeffs(t).c
    for share in (0.2, 0.7, 0.999):
        u = t * (1.0 - share)
        kernel = law.forward_step(u, t)
        restored, z = restore(prediction, law.coeffs(u), kernel, c_t)
        np.testing.assert_allclose(jnp.mean(z**2), kernel.q**2 / cov[0, 0], rtol=1e-10)
        np.testing.assert_allclose(kernel.r * restored + kernel.q * z, x, rtol=1e-10, atol=1e-12)
    zero = jnp.zeros(())
    at_data = law.coeffs(t)._replace(a=zero + 1.0, c=zero)
    _, z = restore(prediction, at_data, kernel._replace(r=law.coeffs(t).a, q=c_t), c_t)
    np.testing.assert_allclose(z, prediction.eps, rtol=1e-12)
    assert jnp.mean(z**2) < 1.0


def drift_error(method, h, t=0.5):
    """The mean over a step of h, less the drift of the flow, at five points of M1 on VP."""
    x = jnp.asarray([[-1.5], [-0.8], [0.1], [0.6], [1.4]])
    run = jax.jit(lambda h: method(x, t, t - h))
    truth = flow_drift(LAW, M1.score(LAW))(x, t)
    return np.stack([(run(h) - x) / -h - truth for h in h])


def one_step(method):
    step = lambda x, t, s: method.step(KEY, M1.predict(LAW), method.init(x, t), t, s).x
    return lambda x, t, s: step(x, jnp.asarray(t), jnp.asarray(s))


@pytest.mark.parametrize("ell", [0.02, 0.4])
def test_one_step_has_the_drift_of_the_flow(ell):
    """By the exact kernel to O(h), whatever ell. By Euler's to O(ell), whose factor is known: half
    the change of the forward drift along the way back, `-(f_x R + f_t) / 2`."""
    fixed = lambda t, h: jnp.full_like(h, ell)
    coarse, fine = drift_error(one_step(restoration(LAW, fixed)), (1e-5, 1e-6))
    np.testing.assert_allclose(fine, 0.1 * coarse, rtol=0.02, atol=1e-7)
    assert np.max(np.abs(coarse)) < 1e-2
    # The drift of VP is linear in x and in t: no rest but the product of both.
    found = drift_error(one_step(euler_restoration(LAW, fixed, root=False)), (1e-6,))[0]
    x, t = jnp.asarray([[-1.5], [-0.8], [0.1], [0.6], [1.4]]), jnp.asarray(0.5)
    reverse = LAW.drift(x, t) - LAW.g2(t) * M1.score(LAW)(x, t)
    rate = jax.jvp(LAW.f, (t,), (jnp.ones(()),))[1]
    first = -0.5 * ell * (LAW.f(t) * reverse + rate * x)
    np.testing.assert_allclose(found, first + 0.5 * ell**2 * rate * reverse, rtol=1e-4, atol=1e-6)
    rooted = drift_error(one_step(euler_restoration(LAW, fixed)), (1e-6,))[0]
    # The root adds h / (8 ell) of `R - f`, 1e-5 here.
    np.testing.assert_allclose(rooted, found, atol=2e-6 / ell * np.max(np.abs(reverse)) + 1e-6)


@pytest.mark.parametrize("count", [1.0, 2.0, 8.0])
@pytest.mark.parametrize("make", [restoration, euler_restoration])
def test_so_many_steps_have_a_known_limit(make, count):
    """`ell = c h` follows `f - w G^2 score` with `w = 1 / (1 + sqrt(1 - 1 / c))` for 1/2: under EDM
    Gaussian data are narrowed by `(v_s / v_t)^w`, not by the root of it."""
    law, std, (t, s) = EDM(), 0.7, (2.0, 0.2)
    data, x = Gaussian.scalar(0.0, std), jnp.ones((1, 1))
    gain = (std**2 + s**2) / (std**2 + t**2)
    errors = lambda method, truth: rms(
        ends(method, data.predict(law), x, even(t, s, SIZES)), np.full((1, 1), truth)
    )
    w = 1.0 / (1.0 + np.sqrt(1.0 - 1.0 / count))
    found = errors(make(law, number_of_steps(count)), gain**w)
    # c = 1 by the exact kernel is right at any h: the step is the posterior mean, `v_s / v_t`.
    exact = count == 1.0 and make is restoration
    assert np.all(found < 1e-14) if exact else 0.9 < slope(SIZES[1:], found[1:]) < 1.1
    assert found[-1] < 0.05 * abs(gain**w - gain**0.5)
    if make is euler_restoration:
        # Without the root there is no such bias. With no drift either, this is Euler on the flow.
        found = errors(make(law, number_of_steps(count), root=False), gain**0.5)
        assert 0.9 < slope(SIZES[1:], found[1:]) < 1.1


def test_euler_kernel_on_vp():
    """`ell ~ sqrt(h)` falls as `sqrt(h)`, `ell = 2 h` stalls, and without the root it is of order
    1; all slow, where the drift is as stiff as here."""
    sizes = (200, 800, 3200)
    ts, x, truth = even(1.0, 0.05, sizes), starts()[:200], solution()[:200]
    errors = lambda *args: rms(ends(euler_restoration(LAW, *args), M1.predict(LAW), x, ts), truth)
    by_root, stalled = errors(0.25), errors(number_of_steps(2))
    assert 0.4 < slope(sizes[1:], by_root[1:]) < 0.6
    assert stalled[-1] > 0.4 and slope(sizes[1:], stalled[1:]) < 0.05
    for count in (1, 2):
        found = errors(number_of_steps(count), False)
        assert 0.9 < slope(sizes[1:], found[1:]) < 1.1


@pytest.mark.parametrize("share", [0.3, 1.0])
def test_distance_of_the_law_to_the_data_falls(share):
    """A step is affine in x for Gaussian data, so W2 to the exact marginal is exact too, from the
    ends of three points. It falls as 1 / N."""
    x = jnp.asarray([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    sizes = (40, 80, 160, 320)
    ts = LAW.t_of_lam(jnp.asarray(even(-4.0, 3.0, sizes)))
    found = np.asarray(ends(restoration(LAW, share), DATA.predict(LAW), x, ts))
    start, end = (DATA.moments(LAW, t) for t in (ts[0, 0], ts[-1, 0]))
    distances = []
    for y in found:
        A = (y[1:] - y[0]).T
        distances.append(w2(A @ start[0] + y[0], A @ start[1] @ A.T, *end))
    assert np.all(np.diff(distances) < 0.0)
    assert 0.9 < slope(sizes[2:], distances[2:]) < 1.1


@pytest.mark.parametrize(
    "method",
    [restoration(LAW, 0.3), restoration(LAW), euler_restoration(LAW)],
    ids=["share", "data", "euler"],
)
def test_times_by_example_and_steps_of_no_length(method):
    x, predict = starts(3), M1.predict(LAW)
    step = jax.jit(lambda t, s: method.step(KEY, predict, method.init(x, t), t, s).x)
    t, s = jnp.asarray([0.9, 0.5, 0.1]), jnp.asarray([0.8, 0.2, 0.1])
    together = step(t, s)
    for i in range(3):
        np.testing.assert_allclose(together[i], step(t[i], s[i])[i], rtol=1e-12)
    np.testing.assert_allclose(together[2], x[2], rtol=1e-12)


@pytest.mark.parametrize("share", [0.0, 1.5, float("nan")])
def test_a_share_outside_the_path_is_refused(share):
    with pytest.raises(ValueError, match=f"look_back is {share}; as a share of t"):
        restoration(LAW, share)
    if not share > 1.0:
        with pytest.raises(ValueError, match=f"look_back is {share}; as c of"):
            euler_restoration(LAW, share)
