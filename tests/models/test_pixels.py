"""Sums over pixels as matrix products, and layers built on them, against flax's layers."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import pixels

RNG = np.random.default_rng(0)
X, WEIGHT = (RNG.standard_normal((3, 4, 6, 8)).astype(np.float32) for _ in range(2))
X = X * 2.0 + np.float32(0.7)


@pytest.fixture(params=[True, False], ids=["products", "reductions"])
def on_cpu(request, monkeypatch):
    """Run a test in the form for CPUs, and in that for accelerators."""
    monkeypatch.setattr(pixels, "on_cpu", lambda: request.param)


def test_spread_and_sum(on_cpu, jit):
    """`spread` and `pixel_sum` are transposes of each other.

    This holds for images, and for pixels in a row, (B, H W, C), as in attention.
    """
    v, rows = np.arange(24, dtype=np.float32).reshape(3, 8), WEIGHT.reshape(3, 24, 8)

    def down(v, weight):
        return jax.grad(lambda v: jnp.sum(pixels.spread(v, weight.shape) * weight))(v)

    @jit
    def run(v):
        spread = [pixels.spread(*given) for given in ((v, X.shape), (v[:1], X.shape))]
        row = pixels.spread(v, rows.shape), down(v, rows)
        return spread, pixels.pixel_sum(jnp.asarray(X)), down(v, WEIGHT), down(v[:1], WEIGHT), row

    (each, one), total, back, back_to_one, (row, back_from_row) = jax.device_get(run(v))
    near = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(each[:, 2, 5], v)
    np.testing.assert_array_equal(one[1, 3, 0], v[0])
    np.testing.assert_allclose(total, X.sum((1, 2)), rtol=1e-5)
    near(back, WEIGHT.sum((1, 2)))
    near(back_to_one[0], WEIGHT.sum((0, 1, 2)))
    np.testing.assert_array_equal(row[:, 11], v)
    near(back_from_row, rows.sum(1))


@pytest.mark.parametrize(
    "ours, flax",
    [
        (pixels.GroupNorm(4), nn.GroupNorm(4, epsilon=1e-6)),
        (pixels.Conv(5, (3, 3)), nn.Conv(5, (3, 3))),
        (pixels.Conv(5, (3, 3), (2, 2)), nn.Conv(5, (3, 3), (2, 2))),
    ],
    ids=["norm", "conv", "strided"],
)
def test_layers_equal_those_of_flax(on_cpu, ours, flax, jit, draw_params):
    """Layers have flax's parameters, outputs, gradients, and forward-mode derivatives."""
    assert shapes(ours) == shapes(flax)
    params = draw_params(flax)

    def all_of(module):
        f = lambda p, x: jnp.sum(jnp.sin(module.apply(p, x)))
        tangent = jax.jvp(lambda x: module.apply(params, x), (X,), (WEIGHT,))
        return tangent, jax.grad(f, argnums=(0, 1))(params, X)

    near = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-5)
    jax.tree.map(near, *jit(lambda: (all_of(ours), all_of(flax)))())


def shapes(module):
    tree = jax.eval_shape(module.init, jax.random.key(3), X)
    return jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), tree)


@pytest.fixture
def draw_params():
    """Return a function that draws random parameters in the shapes of `init`."""

    def draw(module):
        rng, tree = np.random.default_rng(2), jax.eval_shape(module.init, jax.random.key(3), X)
        return jax.tree.map(lambda v: np.float32(0.3 * rng.standard_normal(v.shape) + 0.2), tree)

    return draw


def test_a_constant_image_is_all_bias(on_cpu, jit):
    """GroupNorm of a constant image is its bias, also if rounding makes the variance negative."""
    x, bias = np.full((2, 4, 4, 8), 100.3, np.float32), np.arange(8, dtype=np.float32)
    params = {"params": {"scale": np.ones(8, np.float32), "bias": bias}}
    y = np.asarray(jit(pixels.GroupNorm(2).apply)(params, x))
    assert np.all(np.isfinite(y)) and np.max(np.abs(y - bias)) < 0.1
