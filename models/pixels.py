"""Broadcasts of channel values over pixels and sums over pixels, which are each other's derivative,
and the layers that use them.

If XLA on a CPU fuses a sum over pixels with the computation of the summands, the sum runs one
channel at a time, with strides as long as a pixel, and the gradient of a whole chain of residual
blocks may be computed again for each sum that reads it. As products with a matrix of ones, forwards
and backwards, the sums run at the speed of memory: the gradient of GroupNorm and swish takes a
third to a sixth of the time (`benchmarks/speed/cpu_cliffs.py`). Accelerators fuse reductions well,
so there the sums are reductions.
"""

from __future__ import annotations

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from models import winograd

EXACT = lax.Precision.HIGHEST


def on_cpu() -> bool:
    return jax.default_backend() == "cpu"


def fence(x: jax.Array) -> jax.Array:
    """x itself; on a CPU its gradient is computed once and not again for each reader."""
    return lax.optimization_barrier(x) if on_cpu() else x


def spread(v: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Broadcast v, (B, C) or (1, C), to `shape` (B, ..., C): over pixels, and over examples if v is
    (1, C)."""
    if not on_cpu():
        return jnp.broadcast_to(jnp.expand_dims(v, range(1, len(shape) - 1)), shape)
    pixels = math.prod(shape[:-1]) // v.shape[0]
    ones = jnp.ones((v.shape[0], pixels, 1), v.dtype)
    return lax.dot_general(ones, v[:, None], BATCHED, precision=EXACT).reshape(shape)


def pixel_sum(x: jax.Array) -> jax.Array:
    """The sum over pixels, (B, H, W, C) to (B, C)."""
    if not on_cpu():
        return jnp.sum(x, axis=(1, 2))
    b, h, w, c = x.shape
    ones = jnp.ones((b, 1, h * w), x.dtype)
    return lax.dot_general(ones, x.reshape(b, h * w, c), BATCHED, precision=EXACT)[:, 0]


# Contract the last axis of the left with the middle axis of the right, for each example.
BATCHED = (((2,), (1,)), ((0,), (0,)))


class GroupNorm(nn.Module):
    """`(x - mean) / sqrt(var + epsilon) * scale + bias` over groups of channels and all pixels.

    Wu and He, Group normalization (2018). x: (B, H, W, C). The variance is `E[x^2] - E[x]^2`,
    clipped at zero. Everything is computed in float32, and the result is cast to `dtype`. The
    parameters `scale` and `bias` are (C,).
    """

    num_groups: int
    epsilon: float = 1e-6
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        channels, pixels = x.shape[-1], x.shape[1] * x.shape[2]
        scale = self.param("scale", nn.initializers.ones, (channels,), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (channels,), jnp.float32)
        x = x.astype(jnp.float32)

        def group_mean(v: jax.Array) -> jax.Array:
            """Map sums over pixels (B, C) to the means over groups, repeated by channel, (B, C)."""
            means = v.reshape(-1, self.num_groups, channels // self.num_groups).mean(-1) / pixels
            return jnp.repeat(means, channels // self.num_groups, axis=1)

        mean, square = group_mean(pixel_sum(x)), group_mean(pixel_sum(x * x))
        gain = scale[None] * lax.rsqrt(jnp.maximum(square - mean**2, 0.0) + self.epsilon)
        y = (x - spread(mean, x.shape)) * spread(gain, x.shape) + spread(bias[None], x.shape)
        return y.astype(self.dtype)


class Conv(nn.Module):
    """A SAME convolution with the parameters of `nn.Conv`: `kernel` (k, k, C, features) and `bias`
    (features,). On a CPU it uses `winograd.conv3x3` where this fits."""

    features: int
    kernel_size: tuple[int, int]
    strides: tuple[int, int] = (1, 1)
    kernel_init: Any = nn.initializers.lecun_normal()
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (*self.kernel_size, x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
        x, kernel, bias = (a.astype(self.dtype) for a in (x, kernel, bias))
        if on_cpu() and self.strides == (1, 1) and winograd.fits(x, kernel):
            y = winograd.conv3x3(x, kernel)
        else:
            y = lax.conv_general_dilated(
                x, kernel, self.strides, "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
            )
        return y + spread(bias[None], y.shape)
