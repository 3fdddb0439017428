"""The stochastic sampler of Karras et al. 2022: moments by recursion, Heun without churn."""

from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closed_form import M1, Empirical, Gaussian
from recursion import EPS, MEAN, PRIOR_STD, STD, Level

from samplers import State, heun, make_grid, sample
from samplers.edm import edm
from sde_lib import EDM, VE, VP, SubVP, example_keys

LAWS = {"vp": VP(), "subvp": SubVP(), "ve": VE(), "edm": EDM()}
ENDS = {**EPS, "edm": 0.002}
SETTINGS = {
    "limited": {"s_churn": 40.0, "s_noise": 1.2},
    "between": {"s_churn": 6.0, "s_tmin": 0.05, "s_tmax": 2.0, "s_noise": 1.05},
    "by strength": {"eta": 0.6, "s_tmax": 5.0},
}
KEY = jax.random.key(0)


def level(law, t):
    """`(a, sigma)`."""
    return (1.0, t) if law == "edm" else (Level(law, t).a, Level(law, t).c / Level(law, t).a)


def recursion(law, ts, s_churn=0.0, s_noise=1.0, s_tmin=0.0, s_tmax=np.inf, eta=0.0):
    """Mean and variance of the output, exactly: algorithm 2 in NumPy, where
    `eps = sigma (y - MEAN) / (STD^2 + sigma^2)`. Noise stops at the first sigma."""
    a, top = level(law, ts[0])
    mean, var = 0.0, ({**PRIOR_STD, "edm": 80.0}[law] / a) ** 2
    rate = lambda sigma: sigma / (STD**2 + sigma**2)
    for t, s in pairwise(ts):
        (_, sigma), (a, then) = level(law, t), level(law, s)
        up = (sigma / then) ** eta if eta else 1 + min(s_churn / (len(ts) - 1), np.sqrt(2) - 1)
        hat = min(up * sigma, top) if s_tmin <= sigma <= s_tmax else sigma
        var += s_noise**2 * (hat**2 - sigma**2)
        euler = 1 + (then - hat) * rate(hat)
        gain = 1 + (then - hat) * (rate(hat) + rate(then) * euler) / 2
        mean, var = MEAN + gain * (mean - MEAN), gain**2 * var
    return a * mean, a**2 * var


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("name", LAWS)
def test_few_steps_follow_the_recursion(name, setting):
    """Within four standard errors of 20000 samples, at ten steps."""
    law, kwargs, n, steps = LAWS[name], SETTINGS[setting], 20_000, 10
    ts = make_grid("karras", law, steps, ENDS[name])
    sampler, predict = edm(law, steps, **kwargs), Gaussian.scalar(MEAN, STD).predict(law)

    @jax.jit
    def samples(key):
        start, key = jax.random.split(key)
        return sample(key, predict, sampler, law.prior_sample(start, (n, 1)), ts).x[:, 0]

    # This kind of key compiles in two thirds of the time.
    x = np.asarray(samples(jax.random.key(0, impl="rbg")), np.float64)
    mean, var = recursion(name, np.asarray(ts, np.float64), **kwargs)
    assert abs(x.mean() - mean) < 4 * (var / n) ** 0.5
    assert abs(x.var() / var - 1) < 4 * (2 / n) ** 0.5


def test_without_churn_it_is_heun_in_sigma(x64, strict_ranks):
    """For the law whose time is sigma, the sampler of that name; for VP, a loop in NumPy."""
    y, sigma = np.linspace(-8.0, 8.0, 7)[:, None], np.geomspace(8.0, 0.05, 9)
    law, calm = EDM(), edm(EDM(), 8)
    run = lambda f: sample(KEY, M1.predict(law), f, jnp.asarray(y), jnp.asarray(sigma)).x
    np.testing.assert_allclose(run(calm), run(heun(law)), rtol=1e-12)
    law, x = VP(), None
    ts = law.t_of_lam(-jnp.log(sigma))
    a = np.asarray(law.coeffs(ts).a)
    x = sample(KEY, M1.predict(law), edm(law, 8), jnp.asarray(a[0] * y), ts).x
    eps = lambda y, i: np.asarray(M1.predict(law)(jnp.asarray(a[i] * y), ts[i]).eps)
    for i in range(8):
        h, d = sigma[i + 1] - sigma[i], eps(y, i)
        y = y + h * (d + eps(y + h * d, i + 1)) / 2
    np.testing.assert_allclose(x, a[-1] * y, rtol=1e-9, atol=1e-12)


def test_a_point_is_hit_with_its_own_noise():
    """Data at one point: noise and straight steps keep `y - point` at the size of sigma."""
    law, n = VP(), 20_000
    predict, ts = Empirical(np.array([[MEAN]])).predict(law), jnp.asarray([1.0, 0.6, 0.3])
    start = law.perturb(KEY, jnp.full((n, 1), MEAN), jnp.asarray(1.0))[0]
    x = jax.jit(lambda x: sample(KEY, predict, edm(law, 2, 1.0), x, ts).x)(start)
    a, _, c = law.coeffs(ts[-1])
    assert abs(float(x.mean() - a * MEAN)) < 4 * float(c) / n**0.5
    assert abs(float(x.var() / c**2) - 1) < 4 * (2 / n) ** 0.5


def test_two_evaluations_a_step_none_beyond_t1():
    law, times = VP(), []

    def predict(x, t):
        jax.debug.callback(lambda t: times.append(float(t)), t)
        return M1.predict(law)(x, t)

    ts = jnp.linspace(1.0, 0.1, 5)
    result = sample(KEY, predict, edm(law, 4, 4.0), jnp.ones((3, 1)), ts)
    jax.effects_barrier()
    assert int(result.nfe) == len(times) == 8 and max(times) <= 1.0


def test_a_sample_depends_on_its_own_key_and_times_alone():
    law, keys = VP(), example_keys(0, jnp.arange(3))
    x = jnp.ones((3, 1)) * jnp.asarray([[0.5], [-1.0], [0.1]])
    ts = jnp.linspace(1.0, 0.01, 6)[:, None] * jnp.asarray([[0.8, 1.0, 0.9]])
    run = jax.jit(lambda keys, x, ts: sample(keys, M1.predict(law), edm(law, 5, 2.0), x, ts).x)
    together = run(keys, x, ts)
    for i in range(3):
        alone = run(keys[i : i + 1], x[i : i + 1], ts[:, i])
        np.testing.assert_allclose(together[i], alone[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "kwargs, words",
    [
        ({"steps": 0, "s_churn": 1.0}, "s_churn is 1.0 over 0 steps"),
        ({"steps": 10, "s_churn": -1.0}, "s_churn is -1.0 over 10 steps"),
        ({"eta": -0.5}, "eta is -0.5; the strength"),
        ({"s_churn": 4.0, "eta": 0.5}, "eta is 0.5 and s_churn 4.0"),
    ],
)
def test_refusals(kwargs, words):
    with pytest.raises(ValueError, match=words):
        edm(VP(), **kwargs)


def test_a_step_of_length_zero_leaves_x_alone():
    """As a short grid is padded; beside it a step of some length, churned."""
    law, x, t = VP(), jnp.asarray([[0.7], [-0.3]]), jnp.asarray([0.5, 0.5])
    for options in ({"s_churn": 3.0}, {"eta": 1.0}, {}):
        move = jax.jit(edm(law, 6, **options).step, static_argnums=1)
        found = move(KEY, M1.predict(law), State(x), t, jnp.asarray([0.5, 0.4])).x
        assert found[0] == x[0] and found[1] != x[1]
