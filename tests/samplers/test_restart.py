"""Restarts: moments by a recursion, loss of the start in closed form, and a run from its parts."""

from functools import partial
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closed_form import M1, Gaussian
from recursion import MEAN, PRIOR_STD, STD, Level, step_ddim
from scipy.optimize import brentq

from samplers import GRIDS, ancestral, ddim, dpm_multistep, heun, make_grid, sample
from samplers.around.restart import Restarts
from samplers.around.restart import restart as any_restart
from sde_lib import EDM, VE, VP, Flow, SubVP, example_keys, fold_in

LAWS = {"vp": VP(), "subvp": SubVP(), "ve": VE(), "flow": Flow()}
KEY = jax.random.key(0)
# A law with its own grid, which is one program in the tests.
restart = partial(any_restart, grid=GRIDS["karras"])
# The second interval snaps to the last node but one, the first to the node next to it.
TWO = (Restarts(0.3, 2.0, times=3, steps=2), Restarts(0.06, 0.2, times=1, steps=1))


def recursion(law, ts, intervals):
    """Return mean and variance by DDIM with restarts, in NumPy; times by bisection on levels."""
    sigma = lambda t: Level(law, t).c / Level(law, t).a
    time_at = lambda level: brentq(lambda t: sigma(t) / level - 1.0, 1e-6, 1.0, xtol=1e-14)
    mean, var = 0.0, PRIOR_STD[law] ** 2

    def go(mean, var, times):
        for t, s in pairwise(times):
            gain, shift, noise = step_ddim(0.0)(Level(law, t), Level(law, s), t - s)
            mean, var = gain * mean + shift, gain**2 * var + noise
        return mean, var

    starts = [min(ts, key=lambda t: abs(np.log(sigma(t) / r.low))) for r in intervals]
    for before, t in pairwise(ts):
        mean, var = go(mean, var, (before, t))
        for each in (r for r, start in zip(intervals, starts) if start == t):
            high = time_at(each.high)
            roots = np.linspace(each.high ** (1 / 7), sigma(t) ** (1 / 7), each.steps + 1)
            way = [high, *(time_at(root**7) for root in roots[1:-1]), t]
            for _ in range(each.times):
                now, up = Level(law, t), Level(law, high)
                r = up.a / now.a
                mean, var = go(r * mean, r**2 * var + up.c**2 - r**2 * now.c**2, way)
    return mean, var


@pytest.mark.parametrize("name", ["vp", "subvp", "ve"])
def test_few_steps_follow_the_recursion(name):
    """Few steps give the recursion's moments within four standard errors of 40 000 samples.

    Without the restarts the variance would differ by more than twice this tolerance.
    """
    law, n = LAWS[name], 40_000
    ts = np.asarray(make_grid("karras", law, 8, 1e-2))
    run = restart(law, ddim(law), ts, TWO)
    predict = Gaussian.scalar(MEAN, STD).predict(law)
    x = np.float32(PRIOR_STD[name] * np.random.default_rng(0).standard_normal((n, 1)))
    out = jax.jit(lambda x: run(jax.random.key(2, impl="rbg"), predict, x))(x)
    found = np.asarray(out.x, np.float64)
    mean, var = recursion(name, np.asarray(ts, np.float64), TWO)
    assert abs(found.mean() - mean) < 4 * (var / n) ** 0.5
    assert abs(found.var() / var - 1) < 4 * (2 / n) ** 0.5
    plain = recursion(name, np.asarray(ts, np.float64), ())
    assert abs(plain[1] / var - 1) > 8 * (2 / n) ** 0.5
    assert out.nfe == 8 + 3 * 2 + 1


@pytest.mark.parametrize("name, times", [("vp", 1), ("ve", 3), ("flow", 3)])
def test_restarts_forget_the_start(name, times, x64, strict_ranks):
    """After K restarts the correlation with the start is `(V_low / V_high)^(K / 2)`.

    Measured on Gaussian data by two runs with one key from starts that differ by 1, with fine steps
    of Heun between sigma = 0.7 and 0.3.
    """
    law, low, high = LAWS[name], 0.3, 0.7
    ts = np.asarray(law.t_of_lam(-np.log(np.linspace(high, low, 41))))
    data, v_low, v_high = Gaussian.scalar(0.0, STD), low**2 + STD**2, high**2 + STD**2
    a = np.asarray(law.coeffs(ts).a)
    run = restart(law, heun(law), ts, [Restarts(low, high, times, 40)])
    twins = jax.jit(lambda x: run(jnp.stack([KEY, KEY]), data.predict(law), x).x)
    x = np.asarray(twins(np.array([[0.0], [1.0]])))
    gain = (x[1, 0] - x[0, 0]) * a[0] / a[-1]
    truth = (v_low / v_high) ** (times / 2)
    np.testing.assert_allclose(gain * (v_high / v_low) ** 0.5, truth, rtol=2e-4)


def test_a_wrong_spread_is_forgotten_as_the_square():
    """From a start with four times the variance, the excess ends as `3 (V_low / V_high)^K`."""
    law, low, high, times, n = EDM(), 0.3, 0.7, 2, 40_000
    ts = np.linspace(high, low, 13, dtype=np.float32)
    run = restart(law, heun(law), ts, [Restarts(low, high, times, 12)])
    v_low, v_high = low**2 + STD**2, high**2 + STD**2
    x = np.float32(2.0 * v_high**0.5 * np.random.default_rng(0).standard_normal((n, 1)))
    predict = Gaussian.scalar(0.0, STD).predict(law)
    out = jax.jit(lambda x: run(jax.random.key(2, impl="rbg"), predict, x).x)(x)
    out = np.asarray(out, np.float64)
    truth = v_low * (1.0 + 3.0 * (v_low / v_high) ** times)
    assert abs(out.var() / truth - 1) < 4 * (2 / n) ** 0.5


def test_the_run_taken_apart(x64):
    """A run of a multistep method equals its pieces through `sample`.

    Each return begins with an empty memory, and the main run goes on with the last return's memory.
    """
    law, predict, x = VP(), M1.predict(VP()), np.linspace(-1.0, 1.0, 5)[:, None]
    ts, sampler = np.asarray(make_grid("karras", law, 8, 1e-2)), dpm_multistep(law, 2)
    k, n = int(np.argmin(np.abs(np.asarray(law.lam(ts)) + np.log(0.3)))), 8 + 2 * 4

    @jax.jit
    def both(x):
        run = restart(law, sampler, ts, [Restarts(0.3, 2.0, 2, 4)], denoise=True)
        piece = lambda x, ts: sample(KEY, predict, sampler, x, ts).x
        high = law.t_of_lam(-jnp.log(2.0))
        sigma = jnp.linspace(2.0 ** (1 / 7), jnp.exp(-law.lam(ts[k]) / 7), 5) ** 7
        way = law.t_of_lam(-jnp.log(sigma)).at[0].set(high).at[-1].set(ts[k])
        kernel = law.forward_step(ts[k], high)
        up = lambda x, i: kernel.r * x + kernel.q * law.noise(fold_in(KEY, n + i), x)
        apart = piece(up(piece(x, ts[: k + 1]), k), way)
        apart = piece(up(apart, k + 4), jnp.concatenate([way, ts[k + 1 :]]))
        return run(KEY, predict, x), apart

    found, apart = both(x)
    np.testing.assert_allclose(found.x, predict(apart, ts[-1]).x0, rtol=1e-9)
    assert found.nfe == n + 1


def test_without_intervals_it_is_sample():
    """Without intervals, `restart` equals `sample`, in the noise and in what is collected."""
    law, ts = VP(), np.linspace(1.0, 0.1, 6, dtype=np.float32)
    collect = lambda state: state.x

    @jax.jit
    def all_three(x):
        predict, method = M1.predict(law), ancestral(law)
        plain = sample(KEY, predict, method, x, ts, collect, denoise=True)
        same = restart(law, method, ts, (), denoise=True)(KEY, predict, x, collect=collect)
        some = restart(law, method, ts, ())(KEY, predict, x, collect=collect, frames=3)
        return plain, same, some.trace

    plain, same, some = all_three(np.ones((3, 1), np.float32))
    jax.tree.map(np.testing.assert_array_equal, same, plain)
    np.testing.assert_array_equal(some, np.asarray(plain.trace)[[0, 2, 4]])


def test_evaluations_are_counted_and_a_sample_is_its_own():
    law, times = EDM(), []

    def predict(x, t):
        jax.debug.callback(lambda: times.append(1))
        return M1.predict(law)(x, t)

    run = restart(law, heun(law), np.asarray(make_grid("karras", law, 5, 0.01)), TWO, denoise=True)
    of = jax.jit(lambda numbers, x: run(example_keys(0, numbers), predict, x))
    x, four = np.float32(80.0 * np.random.default_rng(0).standard_normal((4, 1))), np.arange(4)
    out = jax.device_get(of(four, x))
    jax.effects_barrier()
    assert len(times) == out.nfe == 2 * (5 + 6 + 1) + 1
    order = np.array([2, 0, 3, 1])
    np.testing.assert_allclose(of(order, x[order]).x, out.x[order], rtol=1e-4)
    np.testing.assert_allclose(of(four[1:2], x[1:2]).x, out.x[1:2], rtol=1e-4)


@pytest.mark.parametrize(
    ("interval", "words"),
    [
        (Restarts(0.0, 2.0), "begins at sigma = 0.0"),
        (Restarts(1.0, 90.0), "at most at 80"),
        (Restarts(1.0, 0.5), "up to 0.5"),
        (Restarts(0.3, 2.0, times=0), "0 restarts of 4 steps"),
        (Restarts(0.3, 2.0, steps=0), "1 restarts of 0 steps"),
    ],
)
def test_refusals(interval, words):
    ts = np.float32([80.0, 10.0, 1.0, 0.1])
    with pytest.raises(ValueError, match=words):
        restart(EDM(), heun(EDM()), ts, [interval])
    with pytest.raises(ValueError, match="one grid for all"):
        restart(EDM(), heun(EDM()), np.ones((3, 2)), [interval])
