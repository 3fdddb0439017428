"""The small layers of the convolutional networks: initialisers, norms, convolutions, resampling.

Class names, and the order in which layers are created, determine the paths of the parameters, such
as `Downsample_0/Conv2d_0/weight`. The paths are those of the checkpoints of Song et al. (2021).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.nn.initializers import Initializer

from models import resample
from models.pixels import Conv, GroupNorm, spread


def default_init(scale: float = 1.0) -> Initializer:
    """Uniform with variance `scale / mean(fan_in, fan_out)`; a scale of 0 becomes 1e-10.

    In Ho et al. (2020) the last layer of every residual branch has scale 0, so that the network
    starts close to the identity. With exactly zero the norms of these kernels would be useless in
    diagnostics, and `variance_scaling` refuses zero.
    """
    return nn.initializers.variance_scaling(scale or 1e-10, "fan_avg", "uniform")


def conv3x3(features: int, *, scale: float = 1.0, stride: int = 1, dtype: Any) -> Conv:
    """A 3x3 SAME convolution. With stride 2 and an even size, SAME pads only the bottom and the
    right."""
    return Conv(features, (3, 3), (stride, stride), default_init(scale), dtype)


def conv1x1(features: int, *, dtype: Any) -> Conv:
    """A linear map of the channels, as a convolution with parameters `kernel` and `bias`."""
    return Conv(features, (1, 1), kernel_init=default_init(), dtype=dtype)


def dense(features: int, *, dtype: Any) -> nn.Dense:
    """A linear layer with this package's initialisation."""
    return nn.Dense(features, kernel_init=default_init(), dtype=dtype)


def group_norm(channels: int, *, groups: int | None = None, dtype: Any) -> GroupNorm:
    """GroupNorm (Wu and He, 2018), by default with `min(channels // 4, 32)` groups; epsilon 1e-6.

    If that number does not divide the channels, the next smaller number that does is used.
    Statistics are accumulated in float32 for every dtype.
    """
    wanted = groups or max(1, min(channels // 4, 32))
    groups = next(g for g in range(wanted, 0, -1) if channels % g == 0)
    return GroupNorm(groups, 1e-6, dtype)


class NIN(nn.Module):
    """A linear map of the channels, (..., C) to (..., features), with parameters `W` (C, features)
    and `b` (features,)."""

    features: int
    init_scale: float = 0.1
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (x.shape[-1], self.features)
        w = self.param("W", default_init(self.init_scale), shape, jnp.float32)
        b = self.param("b", nn.initializers.zeros, shape[1:], jnp.float32)
        x, w, b = (a.astype(self.dtype) for a in (x, w, b))
        y = x @ w
        return y + spread(b[None], y.shape)


class Conv2d(nn.Module):
    """A 3x3 convolution fused with FIR resampling by two, `direction` 'up' or 'down'.

    See `resample.fir_conv_upsample` and `fir_conv_downsample`. The parameters are `weight`
    (3, 3, C, features) and `bias` (features,).
    """

    features: int
    direction: str
    fir_kernel: Sequence[float]
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (3, 3, x.shape[-1], self.features)
        weight = self.param("weight", default_init(), shape, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, shape[3:], jnp.float32)
        x, weight, bias = (a.astype(self.dtype) for a in (x, weight, bias))
        up = self.direction == "up"
        convolve = resample.fir_conv_upsample if up else resample.fir_conv_downsample
        y = convolve(x, weight, self.fir_kernel)
        return y + spread(bias[None], y.shape)


class Upsample(nn.Module):
    """Upsample (B, H, W, C) to (B, 2H, 2W, features) by nearest neighbour or FIR (`fir`).

    `with_conv` adds a 3x3 convolution. Without it the channels stay, and `features` is ignored.
    """

    fir: bool
    fir_kernel: Sequence[float]
    with_conv: bool = False
    features: int | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        features = self.features or x.shape[-1]
        if self.fir and self.with_conv:
            return Conv2d(features, "up", self.fir_kernel, self.dtype)(x)
        x = resize(x, "up", self.fir, self.fir_kernel)
        return conv3x3(features, dtype=self.dtype)(x) if self.with_conv else x


class Downsample(nn.Module):
    """Downsample (B, H, W, C) to (B, H/2, W/2, features) by the mean or FIR (`fir`).

    `with_conv` takes a 3x3 convolution of stride 2 instead of the mean, or fuses one with the FIR
    filter. Without the convolution the channels stay, and `features` is ignored.
    """

    fir: bool
    fir_kernel: Sequence[float]
    with_conv: bool = False
    features: int | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        if not self.with_conv:
            return resize(x, "down", self.fir, self.fir_kernel)
        features = self.features or x.shape[-1]
        if self.fir:
            return Conv2d(features, "down", self.fir_kernel, self.dtype)(x)
        return conv3x3(features, stride=2, dtype=self.dtype)(x)


class Combine(nn.Module):
    """Merge the input pyramid into the features: a 1x1 convolution, then 'sum' or 'cat'.

    pyramid: (B, H, W, C'), h: (B, H, W, C). The result has C channels for 'sum', 2 C for 'cat'.
    """

    method: str
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, pyramid: jax.Array, h: jax.Array) -> jax.Array:
        pyramid = conv1x1(h.shape[-1], dtype=self.dtype)(pyramid)
        if self.method == "cat":
            return jnp.concatenate([pyramid, h], axis=-1)
        return pyramid + h


def resize(x: jax.Array, direction: str, fir: bool, fir_kernel: Sequence[float]) -> jax.Array:
    """Resample by two without parameters; `direction` is 'up' or 'down'. With `fir` by the filter
    `fir_kernel`, otherwise by nearest neighbour (up) and mean (down)."""
    if direction == "up":
        return resample.fir_upsample(x, fir_kernel) if fir else resample.nearest_upsample(x)
    return resample.fir_downsample(x, fir_kernel) if fir else resample.mean_downsample(x)
