"""The stochastic sampler of Karras et al. 2022: moments by a recursion; Heun without churn."""

from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closed_form import M1, Empirical, Gaussian
from laws_by_example import LawByExample
from recursion import EPS, MEAN, PRIOR_STD, STD, Level

from samplers import Span, State, sample
from samplers.steps.edm import edm
from sde_lib import EDM, VE, VP, SubVP, example_keys
from sde_lib.prediction import Prediction

LAWS = {"vp": VP(), "subvp": SubVP(), "ve": VE(), "edm": EDM()}
ENDS = {**EPS, "edm": 0.002}
SETTINGS = {
    "limited": {"s_churn": 40.0, "s_noise": 1.2},
    "between": {"s_churn": 6.0, "s_tmin": 0.05, "s_tmax": 2.0, "s_noise": 1.05},
    "by strength": {"eta": 0.6, "s_tmax": 5.0},
}
# Keys of this kind compile in two thirds of the time.
KEY = jax.random.key(0, impl="rbg")


def level(law, t):
    """Return `(a, sigma)`."""
    return (1.0, t) if law == "edm" else (Level(law, t).a, Level(law, t).c / Level(law, t).a)


def recursion(law, ts, s_churn=0.0, s_noise=1.0, s_tmin=0.0, s_tmax=np.inf, eta=0.0):
    """Return the exact mean and variance of the output by algorithm 2 in NumPy.

    Here `eps = sigma (y - MEAN) / (STD^2 + sigma^2)`. Churn does not go above the first sigma.
    """
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
def test_few_steps_follow_the_recursion(setting):
    """Ten steps give the recursion's moments for every law, within 4 standard errors of 20000."""
    kwargs, n, steps = SETTINGS[setting], 20_000, 10
    grids, tops = zip(*(karras(name, steps) for name in LAWS))

    @jax.jit
    def run(x, ts, which, t1):
        law = LawByExample(list(LAWS.values()), which, t1)
        predict = Gaussian.scalar(MEAN, STD).predict(law)
        return sample(KEY, predict, edm(law, **kwargs), x, ts).x[:, 0]

    x = np.random.default_rng(0).standard_normal((len(LAWS), n, 1)).astype(np.float32)
    x *= np.float32([{**PRIOR_STD, "edm": 80.0}[name] for name in LAWS])[:, None, None]
    ts, t1 = np.float32(np.stack(grids, axis=1)), np.float32(tops)
    per_example = np.arange(len(LAWS)).repeat(n)
    ends = np.asarray(run(x.reshape(-1, 1), ts[:, per_example], per_example, t1[per_example]))
    for name, grid, end in zip(LAWS, grids, np.float64(ends.reshape(len(LAWS), n))):
        mean, var = recursion(name, grid, **kwargs)
        assert abs(end.mean() - mean) < 4 * (var / n) ** 0.5, name
        assert abs(end.var() / var - 1) < 4 * (2 / n) ** 0.5, name


def karras(name, steps):
    """Return times even in `sigma^(1/7)`, in float32, and the first of them."""
    law = LAWS[name]
    ends = np.asarray(law.lam(np.float32([law.t1, ENDS[name]])), np.float64)
    sigma = np.linspace(*np.exp(-ends / 7.0), steps + 1) ** 7.0
    ts = np.array(law.t_of_lam(np.float32(-np.log(sigma))), np.float64)
    ts[0], ts[-1] = law.t1, ENDS[name]
    return ts, law.t1


def test_without_churn_it_is_heun_in_sigma(x64, strict_ranks):
    """Without churn the run equals a loop of Heun in NumPy, for EDM's law and for VP."""
    y, sigma = np.linspace(-8.0, 8.0, 7)[:, None], np.geomspace(8.0, 0.05, 9)
    law = LawByExample([EDM(), VP()], np.arange(2).repeat(7))

    @jax.jit
    def run(y, sigma):
        ts = law.t_of_lam(-jnp.log(sigma))
        a = law.coeffs(ts).a[:, :, None]
        return sample(KEY, M1.predict(law), edm(law), a[0] * y, ts).x / a[-1]

    found = run(np.tile(y, (2, 1)), sigma[:, None].repeat(14, axis=1))
    eps = lambda y, sigma: M1.predict(EDM())(y, sigma).eps
    for s, t in pairwise(sigma):
        h, d = t - s, eps(y, s)
        y = y + h * (d + eps(y + h * d, t)) / 2
    np.testing.assert_allclose(np.asarray(found).reshape(2, 7, 1), [y, y], rtol=1e-9, atol=1e-12)


def test_a_point_is_hit_with_its_own_noise():
    """For data at one point, churn and steps keep `y - point` at the size of sigma."""
    law, n = VP(), 20_000
    predict, ts = Empirical(np.array([[MEAN]])).predict(law), np.float32([1.0, 0.6, 0.3])
    a, c = (np.asarray(v) for v in law.coeffs(ts))
    start = a[0] * MEAN + c[0] * np.random.default_rng(0).standard_normal((n, 1))
    run = jax.jit(lambda x, ts: sample(KEY, predict, edm(law, 1.0), x, ts).x)
    x = np.asarray(run(start.astype(np.float32), ts))
    assert abs(x.mean() - a[-1] * MEAN) < 4 * c[-1] / n**0.5
    assert abs(x.var() / c[-1] ** 2 - 1) < 4 * (2 / n) ** 0.5


def test_two_evaluations_a_step_none_beyond_t1():
    law, times = VP(), []

    def predict(x, t):
        jax.debug.callback(lambda t: times.append(float(t)), t)
        return Prediction(x, x, x, x)

    run = jax.jit(lambda x, ts: sample(KEY, predict, edm(law, 4.0), x, ts))
    result = run(np.ones((3, 1), np.float32), np.linspace(1.0, 0.1, 5, dtype=np.float32))
    jax.effects_barrier()
    assert int(result.nfe) == len(times) == 8 and max(times) <= 1.0


def test_a_sample_depends_on_its_own_key_and_times_alone():
    """A sample is the same at another position and beside other examples."""
    law = VP()

    @jax.jit
    def run(index, x, ts):
        return sample(example_keys(0, index), M1.predict(law), edm(law, 2.0), x, ts).x

    x = np.float32([[0.5], [-1.0], [0.1]])
    ts = np.float32(np.linspace(1.0, 0.01, 6)[:, None] * np.array([[0.8, 1.0, 0.9]]))
    together = np.asarray(run(np.arange(3), x, ts))
    assert len(np.unique(together)) == 3
    for i in range(3):
        place = (i + 1) % 3
        index, others, times = np.array([7, 8, 9]), x - 0.3, 0.7 * ts
        index[place], others[place], times[:, place] = i, x[i], ts[:, i]
        found = np.asarray(run(index, others, times))
        np.testing.assert_allclose(found[place], together[i], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "kwargs, words",
    [
        ({"s_churn": -1.0}, "s_churn is -1.0; it must"),
        ({"eta": -0.5}, "eta is -0.5; it must"),
        ({"s_churn": 4.0, "eta": 0.5}, "eta is 0.5 and s_churn 4.0"),
    ],
)
def test_refusals(kwargs, words):
    with pytest.raises(ValueError, match=words):
        edm(VP(), **kwargs)


def test_a_step_of_length_zero_leaves_x_alone():
    """A step of length zero, as in a padded grid, changes nothing; another example is churned."""
    law, x, t = VP(), jnp.asarray([[0.7], [-0.3]]), jnp.asarray([0.5, 0.5])
    for options in ({"s_churn": 3.0}, {"eta": 1.0}, {}):
        move = jax.jit(edm(law, **options).step, static_argnums=1)
        found = move(KEY, M1.predict(law), State(x), Span(t, jnp.asarray([0.5, 0.4]))).x
        assert found[0] == x[0] and found[1] != x[1]
