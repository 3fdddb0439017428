"""Normalisations against the original's outputs and their formulas in float64."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models.normalization import (
    NORMALIZATIONS,
    ConditionalInstanceNorm2dPlus,
    InstanceNorm2d,
    InstanceNorm2dPlus,
    VarianceNorm2d,
    conditional_normalization,
    normalization,
)


@pytest.fixture(scope="module")
def layers(load):
    return load("layers")


def test_original(layers, rel, jit):
    x = layers["x"]
    params = {key: layers[f"instance_norm_plus/{key}"] for key in ("alpha", "gamma", "beta")}
    y = jit(InstanceNorm2dPlus().apply)({"params": params}, x)
    assert rel(y, layers["instance_norm_plus/out"]) < 1e-5
    y = jit(VarianceNorm2d().apply)({"params": {"scale": layers["variance_norm/scale"]}}, x)
    assert rel(y, layers["variance_norm/out"]) < 1e-5


def test_original_conditional(layers, rel, jit):
    table = layers["cond_instance_norm_plus/embedding"]
    params = {"Embed_0": {"embedding": table}}
    module = ConditionalInstanceNorm2dPlus(len(table))
    y = jit(module.apply)({"params": params}, layers["x"], layers["cond_instance_norm_plus/labels"])
    assert rel(y, layers["cond_instance_norm_plus/out"]) < 1e-5


class Host(nn.Module):
    """A module that holds a normalisation layer of the given name."""

    normalization: str
    dtype: Any

    @nn.compact
    def __call__(self, x):
        return normalization(self.normalization, self.dtype)(x)


def batch(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def test_instance_norm(jit):
    """Instance norm equals its formula; the original's fails, because a name is used twice."""
    x, scale, bias = 1e-2 * batch(2, 4, 6, 3), batch(1, 1, 1, 3, seed=1), batch(1, 1, 1, 3, seed=2)
    y = jit(InstanceNorm2d().apply)({"params": {"scale": scale, "bias": bias}}, x)
    x = np.float64(x)
    mean, variance = x.mean((1, 2), keepdims=True), x.var((1, 2), keepdims=True)
    expected = scale * (x - mean) / np.sqrt(variance + 1e-5) + bias
    np.testing.assert_allclose(y, expected, atol=1e-5)


@pytest.mark.parametrize("name", NORMALIZATIONS)
def test_statistics_are_float32(name, jit):
    """Statistics are computed in float32; a bfloat16 sum of 200 + n would lose the variance."""
    x = (200 + 8 * batch(2, 16, 16, 32)).astype(jnp.bfloat16)

    def run(key, dtype, x):
        host = Host(name, dtype)
        return host.apply(host.init(key, x), x)

    both = lambda key, x: (run(key, jnp.bfloat16, x), run(key, jnp.float32, x.astype(jnp.float32)))
    y, expected = jax.device_get(jit(both)(jax.random.key(0, impl="rbg"), x))
    assert y.dtype == jnp.bfloat16 and expected.dtype == np.float32
    np.testing.assert_allclose(y.astype(np.float32), expected, rtol=0.01, atol=0.01)


def test_initial_values(jit):
    x, table = np.ones((1, 2, 2, 1000), np.float32), ConditionalInstanceNorm2dPlus(4)

    @jit
    def init(key):
        plain = InstanceNorm2dPlus().init(key, x)
        return plain["params"], table.init(key, x, np.zeros(1, int))["params"]

    params, table = jax.device_get(init(jax.random.key(0, impl="rbg")))
    for key in ("alpha", "gamma"):
        assert params[key].mean() == pytest.approx(1, abs=3e-3)
        assert params[key].std() == pytest.approx(0.02, rel=0.1)
    assert not params["beta"].any()
    table = table["Embed_0"]["embedding"]
    assert table.shape == (4, 3000)
    assert table[:, :2000].mean() == pytest.approx(1, abs=2e-3)
    assert table[:, :2000].std() == pytest.approx(0.02, rel=0.1)
    assert not table[:, 2000:].any()


def test_unknown_name():
    with pytest.raises(
        ValueError, match=r"normalization 'InstanceNormPlus'; known: .*Did you mean"
    ):
        normalization("InstanceNormPlus", jnp.float32)
    with pytest.raises(ValueError, match=r"normalization 'GroupNorm'; known: 'InstanceNorm\+\+'"):
        conditional_normalization("GroupNorm", 10, jnp.float32)
