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


def test_original(layers, rel):
    x = layers["x"]
    params = {key: layers[f"instance_norm_plus/{key}"] for key in ("alpha", "gamma", "beta")}
    y = InstanceNorm2dPlus().apply({"params": params}, x)
    assert rel(y, layers["instance_norm_plus/out"]) < 1e-5
    y = VarianceNorm2d().apply({"params": {"scale": layers["variance_norm/scale"]}}, x)
    assert rel(y, layers["variance_norm/out"]) < 1e-5


def test_original_conditional(layers, rel):
    table = layers["cond_instance_norm_plus/embedding"]
    params = {"Embed_0": {"embedding": table}}
    module = ConditionalInstanceNorm2dPlus(len(table))
    y = module.apply({"params": params}, layers["x"], layers["cond_instance_norm_plus/labels"])
    assert rel(y, layers["cond_instance_norm_plus/out"]) < 1e-5


class Host(nn.Module):
    """A layer by name, inside the module that it needs."""

    normalization: str
    dtype: Any

    @nn.compact
    def __call__(self, x):
        return normalization(self.normalization, self.dtype)(x)


def batch(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def test_instance_norm():
    """The original's has no outputs: there its bias and the switch for it share a name."""
    x, scale, bias = 1e-2 * batch(2, 4, 6, 3), batch(1, 1, 1, 3, seed=1), batch(1, 1, 1, 3, seed=2)
    y = InstanceNorm2d().apply({"params": {"scale": scale, "bias": bias}}, x)
    x = np.float64(x)
    mean, variance = x.mean((1, 2), keepdims=True), x.var((1, 2), keepdims=True)
    expected = scale * (x - mean) / np.sqrt(variance + 1e-5) + bias
    np.testing.assert_allclose(y, expected, atol=1e-5)


@pytest.mark.parametrize("name", NORMALIZATIONS)
def test_statistics_are_float32(name):
    """Of 200 + n no bfloat16 sum would keep the variance."""
    x = jnp.asarray(200 + 8 * batch(2, 16, 16, 32), jnp.bfloat16)

    def run(dtype, x):
        host = Host(name, dtype)
        return host.apply(host.init(jax.random.key(0), x), x)

    y, expected = run(jnp.bfloat16, x), run(jnp.float32, x.astype(jnp.float32))
    assert y.dtype == jnp.bfloat16 and expected.dtype == jnp.float32
    np.testing.assert_allclose(y.astype(jnp.float32), expected, rtol=0.01, atol=0.01)


def test_initial_values():
    x = jnp.ones((1, 2, 2, 1000))
    params = InstanceNorm2dPlus().init(jax.random.key(0), x)["params"]
    for key in ("alpha", "gamma"):
        assert params[key].mean() == pytest.approx(1, abs=3e-3)
        assert params[key].std() == pytest.approx(0.02, rel=0.1)
    assert not params["beta"].any()
    table = ConditionalInstanceNorm2dPlus(4).init(jax.random.key(0), x, jnp.zeros(1, int))
    table = table["params"]["Embed_0"]["embedding"]
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
