"""DDRM against the published updates with dense matrices, and against a recursion of moments."""

from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closed_form import Gaussian
from linear_gaussian import LAWS, PRIOR, D

from operators import blur, matrix
from restoration import ddrm
from samplers import Span, make_grid, sample
from sde_lib import EDM, example_keys, normal_like

NOISE, ETA, ETA_B = 0.3, 0.85, 0.9
KEY = jax.random.key(1)
RNG = np.random.default_rng(0)
# Singular values of all three cases: large against the noise, small against the noise, and zero.
LEFT, RIGHT = (np.linalg.qr(RNG.standard_normal((n, n)))[0] for n in (4, D))
VALUES = np.array([2.0, 0.7, 0.05, 0.0])
OPERATOR = matrix((D,), LEFT @ np.diag(VALUES) @ RIGHT[:, :4].T)
Y = RNG.standard_normal(4)


def published(x, x0, z, a, now, then):
    """Return equations 4 and 5 for one state; `now` and `then` are old and new noise level."""
    V, values = RIGHT.T, np.append(VALUES, np.zeros(D - 4))
    ybar = np.append(LEFT.T @ Y, np.zeros(D - 4))
    xbar, x0bar, zbar, out = V @ x / a, V @ x0, V @ z, np.zeros(D)
    for i, s in enumerate(values):
        if s == 0.0:
            mean = x0bar[i] + np.sqrt(1 - ETA**2) * then * (xbar[i] - x0bar[i]) / now
            std = ETA * then
        elif then < NOISE / s:
            step = (ybar[i] / s - x0bar[i]) / (NOISE / s)
            mean, std = x0bar[i] + np.sqrt(1 - ETA**2) * then * step, ETA * then
        else:
            mean = (1 - ETA_B) * x0bar[i] + ETA_B * ybar[i] / s
            std = np.sqrt(then**2 - (ETA_B * NOISE / s) ** 2)
        out[i] = mean + std * zbar[i]
    return V.T @ out


@pytest.mark.parametrize("law", ["vp", "flow"])
def test_step_is_the_published_one(law, x64, strict_ranks):
    law = LAWS[law]
    sampler, predict = ddrm(law, OPERATOR, Y, NOISE, ETA, ETA_B), PRIOR.predict(law)
    x = RNG.standard_normal((3, D))

    @jax.jit
    def step(x, t, s):
        keys = example_keys(0, jnp.arange(3))
        found = sampler.step(keys, predict, sampler.init(x, t)._replace(x=x), Span(t, s)).x
        return found, normal_like(keys, x)

    # At these levels, no, one or two measured directions have less noise than the state.
    levels = np.array([3.0, 1.0, 0.25, 0.1])
    times = np.asarray(law.t_of_lam(-np.log(levels)))
    for (t, s), (now, then) in zip(pairwise(times), pairwise(levels)):
        found, z = jax.device_get(step(x, t, s))
        a_t, a_s = (float(law.coeffs(v).a) for v in (t, s))
        for one, *arrays in zip(found, x, predict(x, t).x0, z):
            truth = published(*arrays, a_t, now, then)
            np.testing.assert_allclose(one, a_s * truth, atol=1e-9)


def test_start_is_turned_towards_y(x64):
    """The start is N(y / s, sigma^2 - tau^2) along clearly measured directions, else the prior."""
    law = EDM(t1=3.0)
    x = RNG.standard_normal((5, D)) * 3.0
    enter = jax.jit(lambda x: ddrm(law, OPERATOR, Y, NOISE).enter(x, 3.0))
    xbar, found = x @ RIGHT, np.asarray(enter(x)) @ RIGHT
    np.testing.assert_allclose(found[:, 2:], xbar[:, 2:], atol=1e-12)
    for i in (0, 1):
        tau = NOISE / VALUES[i]
        truth = (LEFT.T @ Y)[i] / VALUES[i] + xbar[:, i] * np.sqrt(9.0 - tau**2) / 3.0
        np.testing.assert_allclose(found[:, i], truth, atol=1e-12)


def test_moments_by_recursion():
    """Mean and variance of 4000 samples follow a recursion.

    The data are scalar Gaussians measured with three noise levels, in 20 steps with the paper's
    defaults. The two tests below have measurements without noise.
    """
    law, n, S2, noise = EDM(t1=20.0), 4000, 0.64, 0.2
    values, y = np.array([10.0, 1.0, 0.1]), np.array([11.0, 1.1, 0.11])
    ts = make_grid("karras", law, 20, 0.01)
    sampler = ddrm(law, matrix((3,), np.diag(values)), y, noise)
    data = Gaussian.scalar(0.0, np.sqrt(S2), 3)
    start = 20.0 * np.random.default_rng(1).standard_normal((n, 3))
    run = jax.jit(lambda x: sample(KEY, data.predict(law), sampler, x, ts).x)
    found = np.asarray(run(start), np.float64)
    for x, seen, level in zip(found.T, y / values, noise / values):
        mean, var = seen, 400.0 - level**2
        for t, s in pairwise(np.asarray(ts)):
            gain = S2 / (S2 + t**2)
            if s < level:
                kept = np.sqrt(1 - 0.85**2) * s / level
                mean, var = (1 - kept) * gain * mean + kept * seen, ((1 - kept) * gain) ** 2 * var
                var += (0.85 * s) ** 2
            else:
                mean, var = seen, s**2 - level**2
        assert abs(x.mean() - mean) < 4.0 * np.sqrt(var / n)
        assert abs(x.var() / var - 1.0) < 4.0 * np.sqrt(2.0 / n)


def test_of_a_blur():
    """For a blur without noise, blurred samples equal the measurement, up to the end's noise."""
    law, shape = EDM(), (8, 8, 1)
    data, operator = Gaussian.scalar(0.0, 0.5, 64), blur(shape, 1.0)
    image = 0.5 * RNG.standard_normal((1, *shape)).astype(np.float32)
    ts = make_grid("karras", law, 20, 2e-3)

    @jax.jit
    def run(image, x):
        y = operator.forward(image)
        sampler = ddrm(law, operator, y[0], 0.0)
        found = sample(KEY, data.predict(law), sampler, x, ts, denoise=True).x
        return y, found, operator.forward(found)

    y, x, again = jax.device_get(run(image, law.t1 * RNG.standard_normal((4, *shape))))
    assert np.max(np.abs(x)) < 10.0 and np.max(np.abs(again - y)) < 0.02


def test_singular_values_that_are_rounding_do_no_harm():
    """A singular value of 1e-9 counts as zero: that direction gets the prior's x0, not y / s."""
    law, data = EDM(), Gaussian.scalar(0.0, 0.5, 2)
    sampler = ddrm(law, matrix((2,), np.diag([1.0, 1e-9])), np.array([0.3, 1.0]), 0.0)
    start = lambda x: sampler.init(x, 80.0)
    step = jax.jit(lambda x: sampler.step(KEY, data.predict(law), start(x), Span(80.0, 1.0)).x)
    assert np.max(np.abs(step(np.ones((1, 2), np.float32)))) < 10.0
