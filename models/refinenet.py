"""The upward path of NCSN and NCSNv2, a RefineNet (Lin et al., RefineNet: multi-path refinement
networks for high-resolution semantic segmentation, 2017; Song and Ermon, 2019, appendix A).

A `RefineBlock` joins two resolutions: residual convolution units (RCU) on each input, their sum at
the higher resolution (MSF, multi-resolution fusion), chained residual pooling (CRP), and RCU again.
The blocks `Cond...` are those of NCSN. They normalise before each convolution, with parameters of
the label, and pool by the mean where the other blocks pool by the maximum.

`act` is the nonlinearity. `norm` is a function of (x, labels) that creates its layer in the calling
block. Features are (B, H, W, C), labels are integers (B,). Class names and the order in which
layers are created are those of the checkpoints of Song et al. (2021).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from models.pooling import max_pool, mean_pool
from models.resample import nearest_upsample

SPATIAL = (1, 2)


def convolve(x: jax.Array, features: int, *, bias: bool = True, dilation: int = 1, dtype: Any):
    """A 3x3 SAME convolution; kernel and bias start uniform in `[-1, 1] / sqrt(fan_in)`.

    This is PyTorch's default, with which both networks were first trained.
    """
    bound = 1 / math.sqrt(9 * x.shape[-1])

    def init(key, shape, dtype=jnp.float32):
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return nn.Conv(
        features,
        (3, 3),
        kernel_dilation=dilation,
        use_bias=bias,
        kernel_init=init,
        bias_init=init,
        dtype=dtype,
    )(x)


def bilinear_upsample(x: jax.Array) -> jax.Array:
    """`y[2i] = (x[i-1] + 3 x[i]) / 4`, `y[2i+1] = (3 x[i] + x[i+1]) / 4` along height and width.

    Pixels outside the image have the value of the nearest border pixel. (B, H, W, C) to
    (B, 2H, 2W, C).
    """
    for axis in SPATIAL:
        size = x.shape[axis]
        first, head = (lax.slice_in_dim(x, 0, n, axis=axis) for n in (1, size - 1))
        last, tail = (lax.slice_in_dim(x, n, size, axis=axis) for n in (size - 1, 1))
        before = jnp.concatenate([first, head], axis)
        after = jnp.concatenate([tail, last], axis)
        shape = list(x.shape)
        shape[axis] *= 2
        x = jnp.stack([(before + 3 * x) / 4, (3 * x + after) / 4], axis + 1).reshape(shape)
    return x


INTERPOLATIONS = {"bilinear": bilinear_upsample, "nearest_neighbor": nearest_upsample}


class RCUBlock(nn.Module):
    """`x + conv(f(conv(f(x))))`, `n_blocks` times. Channels stay; convolutions have no bias."""

    n_blocks: int
    act: Callable
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return _residual_units(x, self.n_blocks, self.act, self.dtype)


class CondRCUBlock(nn.Module):
    """As `RCUBlock`, with a normalisation before each nonlinearity."""

    n_blocks: int
    norm: Callable
    act: Callable
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, labels: jax.Array) -> jax.Array:
        def normalised_act(h):
            return self.act(self.norm(h, labels))

        return _residual_units(x, self.n_blocks, normalised_act, self.dtype)


def _residual_units(x, n_blocks, act, dtype):
    for _ in range(n_blocks):
        h = convolve(act(x), x.shape[-1], bias=False, dtype=dtype)
        x = x + convolve(act(h), x.shape[-1], bias=False, dtype=dtype)
    return x


class CRPBlock(nn.Module):
    """`f(x) + p_1 + p_2` with `p_i = conv(max_pool(p_{i-1}))` and `p_0 = f(x)`. Channels stay."""

    act: Callable
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return _chained_pooling(self.act(x), max_pool, self.dtype)


class CondCRPBlock(nn.Module):
    """As `CRPBlock`, with `p_i = conv(mean_pool(norm(p_{i-1})))`."""

    norm: Callable
    act: Callable
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, labels: jax.Array) -> jax.Array:
        return _chained_pooling(self.act(x), lambda h: mean_pool(self.norm(h, labels)), self.dtype)


def _chained_pooling(x, pool, dtype):
    path = x
    for _ in range(2):
        path = convolve(pool(path), x.shape[-1], bias=False, dtype=dtype)
        x = x + path
    return x


class MSFBlock(nn.Module):
    """`sum_i resize(conv(x_i))` at the size of the first input, with `features` channels.

    xs: inputs (B, H, W, C_i); each has the size of the first input or half of it.
    """

    features: int
    interpolation: str
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, xs: list[jax.Array]) -> jax.Array:
        return _fuse(xs, self.features, self.interpolation, self.dtype)


class CondMSFBlock(nn.Module):
    """As `MSFBlock`, of the normalised inputs."""

    features: int
    interpolation: str
    norm: Callable
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, xs: list[jax.Array], labels: jax.Array) -> jax.Array:
        xs = [self.norm(x, labels) for x in xs]
        return _fuse(xs, self.features, self.interpolation, self.dtype)


def _fuse(xs, features, interpolation, dtype):
    total = 0
    for x in xs:
        h = convolve(x, features, dtype=dtype)
        if h.shape[1:3] != xs[0].shape[1:3]:
            h = INTERPOLATIONS[interpolation](h)
        total = total + h
    return total


class RefineBlock(nn.Module):
    """Features at the size of the first of one or two inputs `xs`; see the module docstring.

    The result has `features` channels. A single input is not fused with anything and keeps its
    channels, which must be `features`. `end` sets three RCU instead of one after the pooling.
    """

    features: int
    interpolation: str
    act: Callable
    end: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, xs: list[jax.Array]) -> jax.Array:
        options = {"act": self.act, "dtype": self.dtype}
        hs = [RCUBlock(2, **options)(x) for x in xs]
        h = hs[0]
        if len(hs) > 1:
            h = MSFBlock(self.features, self.interpolation, dtype=self.dtype)(hs)
        h = CRPBlock(**options)(h)
        return RCUBlock(3 if self.end else 1, **options)(h)


class CondRefineBlock(nn.Module):
    """As `RefineBlock`, with the blocks that depend on the label."""

    features: int
    interpolation: str
    norm: Callable
    act: Callable
    end: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, xs: list[jax.Array], labels: jax.Array) -> jax.Array:
        options = {"norm": self.norm, "act": self.act, "dtype": self.dtype}
        hs = [CondRCUBlock(2, **options)(x, labels) for x in xs]
        h = hs[0]
        if len(hs) > 1:
            fuse = CondMSFBlock(self.features, self.interpolation, self.norm, dtype=self.dtype)
            h = fuse(hs, labels)
        h = CondCRPBlock(**options)(h, labels)
        return CondRCUBlock(3 if self.end else 1, **options)(h, labels)
