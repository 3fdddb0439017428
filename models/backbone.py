"""The downward path of NCSN and NCSNv2: a residual network that halves the image early and then
widens its receptive field by dilation (Song and Ermon, 2019, appendix A; 2020, appendix B).

`norm`, `act` and the shapes are described in `models/refinenet.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from models.refinenet import convolve
from models.resample import mean_downsample


class ConvMeanPool(nn.Module):
    """A SAME convolution, then the mean of 2x2 squares: (B, H, W, C) to (B, H/2, W/2, features)."""

    features: int
    kernel_size: int = 3
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        size = (self.kernel_size, self.kernel_size)
        return mean_downsample(nn.Conv(self.features, size, dtype=self.dtype)(x))


class ResidualBlock(nn.Module):
    """`shortcut(x) + conv(f(norm(conv(f(norm(x))))))` with convolutions of the given dilation.

    With `down` the output has `features` channels. Without dilation the image is then halved, in
    both branches, by ConvMeanPool; with dilation the size stays, and the shortcut is a convolution.
    Without `down` the shortcut is the identity, and `features` is the number of channels of x.
    """

    features: int
    norm: Callable
    act: Callable
    down: bool = False
    dilation: int = 1
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return _residual(self, x, lambda h: self.act(self.norm(h)))


class ConditionalResidualBlock(nn.Module):
    """As `ResidualBlock`, with normalisations that depend on the label."""

    features: int
    norm: Callable
    act: Callable
    down: bool = False
    dilation: int = 1
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, labels: jax.Array) -> jax.Array:
        return _residual(self, x, lambda h: self.act(self.norm(h, labels)))


def _residual(block, x, act):
    def conv(h, features):
        return convolve(h, features, dilation=block.dilation, dtype=block.dtype)

    h = act(conv(act(x), x.shape[-1]))
    if block.down and block.dilation == 1:
        h = ConvMeanPool(block.features, dtype=block.dtype)(h)
        return h + ConvMeanPool(block.features, kernel_size=1, dtype=block.dtype)(x)
    h = conv(h, block.features)
    return h + (conv(x, block.features) if block.down else x)
