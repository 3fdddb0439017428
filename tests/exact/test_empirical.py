"""The optimal denoiser of a data set against closed forms, autodiff, and float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closed_form import Mixture

from exact.empirical import empirical_logp, empirical_predict, points, posterior
from sde_lib import EDM, VE, VP, Flow
from search import problem as sampler_problem

LAWS = {"vp": VP(), "ve": VE(), "flow": Flow()}
RNG = np.random.default_rng(0)
DATA = RNG.standard_normal((37, 3, 2)) + 0.5
TIMES = np.array([0.05, 0.2, 0.5, 0.9])


@pytest.mark.usefixtures("x64", "strict_ranks")
@pytest.mark.parametrize("law_name", LAWS)
def test_all_predictions_and_the_density(law_name):
    """Predictions and density are right with and without blur, at a time per example.

    The data are in five blocks of eight points, of which one is padded.
    """
    law, x, t = LAWS[law_name], RNG.standard_normal((4, 3, 2)), TIMES

    @jax.jit
    def both(data, std, x, t):
        exact = Mixture(np.full(37, 1 / 37), DATA.reshape(37, 6), jnp.full(37, std))
        ours = empirical_predict(law, data)(x, t), empirical_logp(law, data, x, t)
        return ours, (exact.predict(law)(x, t), exact.logp(law, x, t))

    for std in (0.0, 0.3):
        (found, logp), (exact, exact_logp) = both(points(DATA, std, block=8), std, x, t)
        for ours, truth in zip(found, exact):
            np.testing.assert_allclose(ours, truth, rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(logp, exact_logp, rtol=1e-11)


@pytest.mark.usefixtures("x64")
def test_blocks_change_nothing():
    """Blocks of one point and a single block give the same; the time is a number."""
    x, t = RNG.standard_normal((4, 3, 2)), np.float64(0.4)
    told = jax.jit(lambda data, x, t: posterior(EDM(), data, x, t))
    for a, b in zip(told(points(DATA, block=1), x, t), told(points(DATA, block=1000), x, t)):
        np.testing.assert_allclose(a, b, rtol=1e-12)


@pytest.mark.usefixtures("x64")
def test_the_denoiser_is_the_gradient_of_the_density():
    """D* = x + sigma^2 grad log p; the gradient by t is finite, also with padding."""
    data, x, t, h = points(DATA, block=8), RNG.standard_normal((4, 3, 2)), TIMES, 1e-6
    total = lambda x, t: jnp.sum(empirical_logp(EDM(), data, x, t))

    @jax.jit
    def run(x, t):
        slopes = jax.grad(total, argnums=(0, 1))(x, t)
        at = jax.lax.map(lambda t: total(x, t), jnp.stack([t - h, t + h]))
        return *slopes, at, empirical_predict(EDM(), data)(x, t).x0

    by_x, by_t, at, x0 = jax.device_get(run(x, t))
    np.testing.assert_allclose(x + t[:, None, None] ** 2 * by_x, x0, rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(np.sum(by_t), (at[1] - at[0]) / (2 * h), rtol=1e-6)


@pytest.mark.usefixtures("x64")
def test_the_nearest_point_and_its_weight():
    data = points(DATA, block=8)
    x = np.concatenate([DATA[[5, 36]] + 1e-3, RNG.standard_normal((2, 3, 2))])
    # The last three lie on a point: their distance is 0, and not the root of a rounding error.
    x = np.concatenate([x, DATA[:3]])
    found = jax.device_get(jax.jit(posterior)(EDM(), data, x, 0.7))
    assert found.distance[-3:].max() < 1e-14
    found, x = jax.tree.map(lambda v: v[:-3], found), x[:-3]
    d2 = np.sum((np.asarray(x)[:, None] - DATA[None]) ** 2, axis=(2, 3))
    share = np.exp(-d2 / 2 / 0.49)
    np.testing.assert_array_equal(found.nearest, d2.argmin(1))
    assert list(found.nearest[:2]) == [5, 36]
    np.testing.assert_allclose(found.distance, np.sqrt(d2.min(1)), rtol=1e-9)
    np.testing.assert_allclose(found.weight, (share / share.sum(1, keepdims=True)).max(1))


@pytest.mark.usefixtures("x64")
def test_the_inequality_behind_monotone_likelihood():
    """log p(w) - log p(x) >= (|x - D*|^2 - |w - D*|^2) / 2 sigma^2 for any w."""
    data, sigma = points(DATA, block=8), np.geomspace(0.1, 10.0, 3000)
    x = RNG.standard_normal((3000, 3, 2))
    w = x + sigma[:, None, None] * RNG.standard_normal((3000, 3, 2))
    run = jax.jit(lambda x, sigma: posterior(EDM(), data, x, sigma))
    told = lambda x: jax.device_get(run(x, sigma))
    at_x = told(x)
    gain = told(w).logp - at_x.logp
    norm2 = lambda v: np.sum(np.asarray(v) ** 2, axis=(1, 2))
    bound = (norm2(x - at_x.mean) - norm2(w - at_x.mean)) / (2 * sigma**2)
    assert np.min((gain - bound) / (1 + np.abs(bound))) > -1e-12
    # The bound is tight for w near x: half of the gaps are below half of the typical bound.
    assert np.median(gain - bound) < 0.5 * np.median(np.abs(bound))


def test_float32_at_small_noise():
    """In float32, weights of two images a few sigma apart are right.

    They need `|y - x_i|^2` with an error below sigma^2. A float32 matrix product alone has a far
    larger error.
    """
    dims, sigma = 784, 0.01
    first = RNG.uniform(-1, 1, (200, dims))
    apart = RNG.standard_normal((200, dims)) * 3.0 * sigma / dims**0.5
    data = np.concatenate([first, first + apart]).astype(np.float32)
    y = (first[:50] + 0.5 * apart[:50] + sigma * RNG.standard_normal((50, dims))).astype(np.float32)
    told = jax.jit(posterior)
    found = told(EDM(), points(data, block=128), y, np.float32(sigma))
    assert found.mean.dtype == jnp.float32
    d2 = np.sum((y[:, None].astype(np.float64) - data[None].astype(np.float64)) ** 2, axis=2)
    share = np.exp(-(d2 - d2.min(1, keepdims=True)) / (2 * sigma**2))
    share /= share.sum(1, keepdims=True)
    assert 0.3 < np.median(share.max(1)) < 0.99  # so the weights are not all 0 and 1
    np.testing.assert_allclose(found.weight, share.max(1), atol=1e-3)
    np.testing.assert_allclose(found.mean, share @ data, atol=3e-6)
    np.testing.assert_array_equal(found.nearest, d2.argmin(1))


@pytest.mark.usefixtures("x64")
def test_the_mixture_of_the_sampler_benchmark_is_a_case():
    problem = sampler_problem.load_problem("digits")
    ours = empirical_predict(EDM(), points(problem.x, problem.s, block=100))
    x = problem.starts[:8] / 80.0 + problem.x[:8]
    both = jax.jit(lambda t: (ours(x, t), sampler_problem.predict_fn(problem)(x, t)))
    for sigma in (0.002, 0.3, 5.0):
        for a, b in zip(*both(sigma)):
            np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-8)


def test_memory_does_not_hold_states_against_data():
    """XLA's plan for 1024 states and 60,000 points holds no (B, N) array, which takes 234 MiB.

    Nothing is allocated.
    """
    shape = lambda *s: jax.ShapeDtypeStruct(s, jnp.float32)
    blocks = -(-60_000 // 1024)
    data = points(np.zeros((2, 64))).replace(
        blocks=shape(blocks, 1024, 64), squares=shape(blocks, 1024), size=60_000
    )
    run = jax.jit(lambda data, x, t: empirical_predict(EDM(), data)(x, t).x0)
    compiled = run.lower(data, shape(1024, 64), shape()).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 40 * 2**20


def test_refusals():
    for wrong, message in (
        (np.zeros((0, 4)), "at least one point"),
        (np.zeros(4), "at least one point"),
        (np.full((2, 4), np.nan), "not finite"),
    ):
        with pytest.raises(ValueError, match=message):
            points(wrong)
    with pytest.raises(ValueError, match="std is -1"):
        points(np.zeros((2, 4)), std=-1.0)
    with pytest.raises(ValueError, match="block 0"):
        points(np.zeros((2, 4)), block=0)
    with pytest.raises(ValueError, match="5 values and a point 4"):
        empirical_predict(EDM(), points(np.zeros((2, 4))))(np.zeros((1, 5)), np.ones(()))
