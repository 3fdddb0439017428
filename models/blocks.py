"""The residual blocks of DDPM and NCSN++: the DDPM block, and the BigGAN block, which can resample.

All blocks are `shortcut(x) + conv(drop(f(norm(conv(f(norm(x))) + W f(temb)))))`, with f the
nonlinearity. The blocks of NCSN++ divide the sum by sqrt 2 if `skip_rescale` is set, which keeps
the variance of a sum of two independent terms (Song et al., 2021, appendix H).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from models.dropout import Dropout
from models.layers import NIN, conv1x1, conv3x3, dense, group_norm, resize
from models.pixels import spread


class ResnetBlockDDPM(nn.Module):
    """The residual block of Ho et al. (2020), appendix B, with any normalisation.

    `norm` is a function of x that creates its layer in the block. Shapes as in `ResnetBlockDDPMpp`.
    """

    features: int
    norm: Callable[[jax.Array], jax.Array]
    act: Callable[[jax.Array], jax.Array]
    dropout: float
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, temb: jax.Array | None, train: bool) -> jax.Array:
        h = conv3x3(self.features, dtype=self.dtype)(self.act(self.norm(x)))
        if temb is not None:
            h = h + spread(dense(self.features, dtype=self.dtype)(self.act(temb)), h.shape)
        h = Dropout(self.dropout)(self.act(self.norm(h)), deterministic=not train)
        h = conv3x3(self.features, scale=0.0, dtype=self.dtype)(h)
        if x.shape[-1] != self.features:
            x = NIN(self.features, dtype=self.dtype)(x)
        return x + h


class ResnetBlockDDPMpp(nn.Module):
    """The residual block of Ho et al. (2020), appendix B, with GroupNorm. It does not resample.

    x: (B, H, W, C); temb: (B, E), or None for a network without conditioning; the result has
    shape (B, H, W, features). The shortcut is the identity, or a NIN if the channels change.
    """

    features: int
    act: Callable[[jax.Array], jax.Array]
    dropout: float
    skip_rescale: bool
    init_scale: float
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, temb: jax.Array | None, train: bool) -> jax.Array:
        h = self.act(group_norm(x.shape[-1], dtype=self.dtype)(x))
        h = conv3x3(self.features, dtype=self.dtype)(h)
        if temb is not None:
            h = h + spread(dense(self.features, dtype=self.dtype)(self.act(temb)), h.shape)
        h = self.act(group_norm(self.features, dtype=self.dtype)(h))
        h = Dropout(self.dropout)(h, deterministic=not train)
        h = conv3x3(self.features, scale=self.init_scale, dtype=self.dtype)(h)
        if x.shape[-1] != self.features:
            x = NIN(self.features, dtype=self.dtype)(x)
        return (x + h) / math.sqrt(2) if self.skip_rescale else x + h


class ResnetBlockBigGANpp(nn.Module):
    """The residual block of Brock et al., Large scale GAN training (2019), appendix B.

    `direction` 'up' or 'down' resamples both branches by two between the first nonlinearity and
    the first convolution, with FIR filters (`fir`) or by nearest neighbour and mean. The shortcut
    is the identity, or a 1x1 convolution if the channels or the size change. Shapes are those of
    `ResnetBlockDDPMpp`, except that the result has the resampled size.
    """

    features: int
    act: Callable[[jax.Array], jax.Array]
    dropout: float
    skip_rescale: bool
    init_scale: float
    fir: bool
    fir_kernel: Sequence[float]
    direction: str | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, temb: jax.Array | None, train: bool) -> jax.Array:
        channels = x.shape[-1]
        h = self.act(group_norm(channels, dtype=self.dtype)(x))
        if self.direction:
            h = resize(h, self.direction, self.fir, self.fir_kernel)
            x = resize(x, self.direction, self.fir, self.fir_kernel)
        h = conv3x3(self.features, dtype=self.dtype)(h)
        if temb is not None:
            h = h + spread(dense(self.features, dtype=self.dtype)(self.act(temb)), h.shape)
        h = self.act(group_norm(self.features, dtype=self.dtype)(h))
        h = Dropout(self.dropout)(h, deterministic=not train)
        h = conv3x3(self.features, scale=self.init_scale, dtype=self.dtype)(h)
        if channels != self.features or self.direction:
            x = conv1x1(self.features, dtype=self.dtype)(x)
        return (x + h) / math.sqrt(2) if self.skip_rescale else x + h
