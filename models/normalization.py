"""Normalisations of NHWC images, by name.

With mean `m_c` and variance `v_c` of channel c over the pixels, and eps = 1e-5,

    VarianceNorm      y_c = gamma_c x_c / sqrt(v_c + eps)
    InstanceNorm      y_c = gamma_c n_c + beta_c             n_c = (x_c - m_c) / sqrt(v_c + eps)
    InstanceNorm++    y_c = gamma_c (n_c + alpha_c p_c) + beta_c
    GroupNorm         32 groups, eps = 1e-6

where `p_c` is `m_c` normalised over the channels. InstanceNorm++ thus keeps the differences between
the means of the channels, which InstanceNorm removes (Song and Ermon, Generative modeling by
estimating gradients of the data distribution, 2019, appendix A).

Statistics, and results before the cast to `dtype`, are float32. Class names and parameter shapes
(1, 1, 1, C) are those of the checkpoints of Song et al. (2021).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from models.layers import group_norm
from models.options import check_choice

EPSILON = 1e-5
NORMALIZATIONS = ("InstanceNorm++", "VarianceNorm", "InstanceNorm", "GroupNorm")
CONDITIONAL_NORMALIZATIONS = ("InstanceNorm++",)


def normalization(name: str, dtype: Any) -> Callable[[jax.Array], jax.Array]:
    """The normalisation called `name`: a function of x for use inside a module's `__call__`.

    Each call of the function creates a new layer in the calling module.

    Raises:
      ValueError: the name is unknown.
    """
    check_choice("normalization", name, NORMALIZATIONS)
    if name == "GroupNorm":
        return lambda x: group_norm(x.shape[-1], groups=32, dtype=dtype)(x)
    layer = {
        "InstanceNorm++": InstanceNorm2dPlus,
        "VarianceNorm": VarianceNorm2d,
        "InstanceNorm": InstanceNorm2d,
    }[name]
    return lambda x: layer(dtype=dtype)(x)


def conditional_normalization(
    name: str, num_classes: int, dtype: Any
) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """The normalisation called `name` as a function of (x, labels): its parameters depend on an
    integer label in [0, num_classes).

    Raises:
      ValueError: the name is not one of `CONDITIONAL_NORMALIZATIONS`.
    """
    check_choice("normalization", name, CONDITIONAL_NORMALIZATIONS)
    return lambda x, labels: ConditionalInstanceNorm2dPlus(num_classes, dtype=dtype)(x, labels)


class VarianceNorm2d(nn.Module):
    """`scale x / sqrt(v + eps)`, without a bias. x: (B, H, W, C)."""

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = x.astype(jnp.float32)
        variance = jnp.var(x, axis=(1, 2), keepdims=True)
        scale = self.param("scale", near_one, (1, 1, 1, x.shape[-1]), jnp.float32)
        return (scale * x * lax.rsqrt(variance + EPSILON)).astype(self.dtype)


class InstanceNorm2d(nn.Module):
    """`scale (x - m) / sqrt(v + eps) + bias` (Ulyanov et al., 2016). x: (B, H, W, C)."""

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (1, 1, 1, x.shape[-1])
        scale = self.param("scale", nn.initializers.ones, shape, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, shape, jnp.float32)
        return (scale * standardise(x.astype(jnp.float32), (1, 2)) + bias).astype(self.dtype)


class InstanceNorm2dPlus(nn.Module):
    """`gamma (n + alpha p) + beta`, see the module docstring. x: (B, H, W, C)."""

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (1, 1, 1, x.shape[-1])
        alpha = self.param("alpha", near_one, shape, jnp.float32)
        gamma = self.param("gamma", near_one, shape, jnp.float32)
        beta = self.param("beta", nn.initializers.zeros, shape, jnp.float32)
        return instance_norm_plus(x, alpha, gamma, beta).astype(self.dtype)


class ConditionalInstanceNorm2dPlus(nn.Module):
    """InstanceNorm++ with gamma, alpha and beta looked up by an integer label.

    A row of the table holds gamma, alpha and beta, in this order. x: (B, H, W, C), labels: (B,).
    """

    num_classes: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, labels: jax.Array) -> jax.Array:
        rows = nn.Embed(self.num_classes, 3 * x.shape[-1], embedding_init=_two_near_one)(labels)
        gamma, alpha, beta = jnp.split(rows[:, None, None, :], 3, axis=-1)
        return instance_norm_plus(x, alpha, gamma, beta).astype(self.dtype)


def instance_norm_plus(x, alpha, gamma, beta):
    """`gamma (n + alpha p) + beta` in float32; alpha, gamma, beta: (1 or B, 1, 1, C)."""
    x = x.astype(jnp.float32)
    means = standardise(x.mean(axis=(1, 2), keepdims=True), -1)
    return gamma * (standardise(x, (1, 2)) + alpha * means) + beta


def standardise(x: jax.Array, axes: int | tuple[int, ...]) -> jax.Array:
    """`(x - mean) / sqrt(variance + eps)` over `axes`."""
    variance = jnp.var(x, axis=axes, keepdims=True)
    return (x - x.mean(axis=axes, keepdims=True)) * lax.rsqrt(variance + EPSILON)


def near_one(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """An initialiser of scales, N(1, 0.02^2)."""
    return 1 + nn.initializers.normal(0.02)(key, shape, dtype)


def _two_near_one(key, shape, dtype=jnp.float32):
    """An initialiser of table rows: N(1, 0.02^2) for gamma and alpha, zero for beta."""
    rows, width = shape
    scales = near_one(key, (rows, 2 * width // 3), dtype)
    return jnp.concatenate([scales, jnp.zeros((rows, width // 3), dtype)], axis=-1)
