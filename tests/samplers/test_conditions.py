"""Conditions: in every method each example uses its own condition.

Given `cond = {"mean": (B, D), "std": (B,)}` the data are `N(mean, std^2 I)`, so the flow is

    x_eps = a m + sqrt((a^2 s^2 + c^2) / (a_1^2 s^2 + c_1^2)) (x_1 - a_1 m).
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sde_lib
from builders.sampling import build_sampler
from configs.base import base
from samplers import unified
from samplers.schedules.learned import schedule_file
from samplers.schedules.schedule import load
from sde_lib import example_keys, expand
from sde_lib.prediction import bound, parametrize, prediction_of

LAW = sde_lib.SDES["vp"]()
EPS = 1e-3
COND = {
    "mean": np.float32([[-0.8, 0.1], [0.3, -0.4], [0.9, 0.6]]),
    "std": np.float32([0.3, 0.5, 0.7]),
}
POINTS = {**COND, "std": np.zeros(3, np.float32)}


def predict(x, t, cond):
    a, c = LAW.coeffs(jnp.broadcast_to(t, x.shape[:1]))
    gain = expand(a * cond["std"] ** 2 / (a**2 * cond["std"] ** 2 + c**2), x)
    x0 = cond["mean"] + gain * (x - expand(a, x) * cond["mean"])
    return prediction_of(LAW, x, t, x0, (x - expand(a, x) * x0) / expand(c, x))


def flow_end(x, cond):
    (a, c), (a1, c1) = (map(float, LAW.coeffs(jnp.asarray(t))) for t in (EPS, LAW.t1))
    size = lambda a, c: np.sqrt((a * cond["std"]) ** 2 + c**2)[:, None]
    return a * cond["mean"] + size(a, c) / size(a1, c1) * (x - a1 * cond["mean"])


def method(name, **options):
    section = base("vp", "mlp", "npz").sampling
    section.update(method=name, eps=EPS, denoise=False, **{"steps": 40, **options})
    return build_sampler(section, LAW)


def drawn(n=3):
    return np.random.default_rng(0).standard_normal((n, 2)).astype(np.float32)


# With one condition for all, or with another example's, the error would be at least 0.5.
FLOWS = {
    "ode": (method("ode"), COND, 2e-3),
    "ode, joint": (method("ode", ode={"batching": "batch"}), COND, 2e-3),
    "dpm_adaptive": (method("dpm_adaptive"), COND, 0.03),
    "dpm_fast": (method("dpm_fast"), COND, 0.02),
    "pc": (method("pc", predictor="heun", corrector="none"), COND, 0.02),
    "unified": (unified(LAW, load(schedule_file("digits_10")), EPS, denoise=False), POINTS, 2e-3),
}


@pytest.mark.parametrize("name", FLOWS)
def test_each_example_ends_where_its_own_flow_does(name):
    run, cond, tolerance = FLOWS[name]
    x = drawn()
    found = jax.jit(lambda x, cond: run(jax.random.key(0), predict, x, cond))(x, cond)
    assert not found.failed.any()
    np.testing.assert_allclose(found.x, flow_end(x, cond), atol=tolerance)


@pytest.mark.parametrize("name", ["sde", "score_sde"])
def test_noise_leads_to_each_examples_own_point(name):
    """Given a point m, the end is a draw of `N(a m, c^2)`, within 4.5 standard deviations."""
    run = method(name, predictor="ancestral", corrector="none", steps=1000)
    keys, x = example_keys(0, np.arange(3)), drawn()
    found = jax.jit(lambda x, cond: run(keys, predict, x, cond).x)(x, POINTS)
    a, c = (float(v) for v in LAW.coeffs(jnp.asarray(EPS)))
    np.testing.assert_allclose(found, a * POINTS["mean"], atol=4.5 * c)


@pytest.mark.parametrize("name", ["ode", "dpm_adaptive"])
def test_a_class_of_ones_own_is_that_of_the_example_alone(name):
    """An adaptive solve with classes gives the same in a batch and in batches of one example."""
    run, keys, x = method(name), example_keys(0, np.arange(3)), drawn()
    table = jax.tree.map(jnp.asarray, COND)
    of_class = lambda x, t, k: predict(x, t, jax.tree.map(lambda v: v[k], table))

    def both(keys, x, label):
        one = lambda row: run(row[0][None], of_class, row[1][None], row[2][None]).x[0]
        return run(keys, of_class, x, label).x, jax.lax.map(one, (keys, x, label))

    together, alone = jax.jit(both)(keys, x, np.array([2, 0, 1]))
    np.testing.assert_allclose(together, alone, atol=1e-5)
    assert np.min(np.ptp(together, axis=0)) > 0.1


def test_without_a_condition_a_function_of_two_arguments_will_do():
    plain = bound(predict, jax.tree.map(jnp.asarray, COND))
    assert bound(plain, None) is plain


def test_a_network_is_told_its_condition():
    """The network gets x, the level and its condition; without a condition only the first two."""
    told = []
    network = lambda x, level, *cond: told.append(cond) or x
    read = parametrize("eps", LAW, network)
    x, label = jnp.ones((2, 3)), jnp.asarray([4, 7])
    read(x, 0.5), read(x, 0.5, label)
    assert told[0] == () and told[1] == (label,)
