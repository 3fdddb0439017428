"""Sums over pixels as matrix products, and the layers built on them, against flax's own."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import pixels

X = jax.random.normal(jax.random.key(0), (3, 4, 6, 8)) * 2.0 + 0.7
WEIGHT = jax.random.normal(jax.random.key(1), X.shape)


@pytest.fixture(params=[True, False], ids=["products", "reductions"])
def on_cpu(request, monkeypatch):
    """Both forms: that of a CPU, and that of accelerators."""
    monkeypatch.setattr(pixels, "on_cpu", lambda: request.param)


def test_spread_and_sum(on_cpu):
    v = jnp.arange(24.0).reshape(3, 8)
    np.testing.assert_array_equal(pixels.spread(v, X.shape)[:, 2, 5], v)
    np.testing.assert_array_equal(pixels.spread(v[:1], X.shape)[1, 3, 0], v[0])
    np.testing.assert_allclose(pixels.pixel_sum(X), X.sum((1, 2)), rtol=1e-5)
    # each is the transpose of the other
    down = jax.grad(lambda v: jnp.sum(pixels.spread(v, X.shape) * WEIGHT))(v)
    np.testing.assert_allclose(down, WEIGHT.sum((1, 2)), rtol=1e-5, atol=1e-5)
    down = jax.grad(lambda v: jnp.sum(pixels.spread(v, X.shape) * WEIGHT))(v[:1])
    np.testing.assert_allclose(down[0], WEIGHT.sum((0, 1, 2)), rtol=1e-5, atol=1e-5)


def test_spread_over_pixels_in_a_row(on_cpu):
    """As attention has them, (B, H W, C)."""
    v, rows = jnp.arange(24.0).reshape(3, 8), WEIGHT.reshape(3, 24, 8)
    np.testing.assert_array_equal(pixels.spread(v, rows.shape)[:, 11], v)
    down = jax.grad(lambda v: jnp.sum(pixels.spread(v, rows.shape) * rows))(v)
    np.testing.assert_allclose(down, rows.sum(1), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "ours, flax",
    [
        (pixels.GroupNorm(4), nn.GroupNorm(4, epsilon=1e-6)),
        (pixels.Conv(5, (3, 3)), nn.Conv(5, (3, 3))),
        (pixels.Conv(5, (3, 3), (2, 2)), nn.Conv(5, (3, 3), (2, 2))),
    ],
    ids=["norm", "conv", "strided"],
)
def test_layers_equal_those_of_flax(on_cpu, ours, flax):
    """Parameters, output, both gradients, and the derivative forwards, which likelihoods take."""
    params = flax.init(jax.random.key(2), X)
    params = jax.tree.map(lambda p: p + 0.3 * jnp.cos(jnp.arange(p.size).reshape(p.shape)), params)
    shapes = lambda module: jax.tree.map(jnp.shape, module.init(jax.random.key(3), X))
    assert shapes(ours) == shapes(flax)

    def all_of(module):
        f = lambda p, x: jnp.sum(jnp.sin(module.apply(p, x)))
        tangent = jax.jvp(lambda x: module.apply(params, x), (X,), (WEIGHT,))
        return tangent, jax.grad(f, argnums=(0, 1))(params, X)

    near = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-5)
    jax.tree.map(near, all_of(ours), all_of(flax))


def test_a_constant_image_is_all_bias(on_cpu):
    """Zero variance, which rounding may make negative."""
    x = jnp.full((2, 4, 4, 8), 100.3)
    params = {"params": {"scale": jnp.ones(8), "bias": jnp.arange(8.0)}}
    y = pixels.GroupNorm(2).apply(params, x)
    assert np.all(np.isfinite(y)) and np.max(np.abs(y - jnp.arange(8.0))) < 0.1
