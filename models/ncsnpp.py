"""NCSN++ and DDPM++, the U-nets of Song et al., Score-based generative modeling through
stochastic differential equations (2021), section 4.4 and appendix H.

Every architecture of the paper is a choice of the fields below. NCSN++ has FIR resampling, BigGAN
blocks, rescaled skips and a residual input pyramid, and is conditioned on random Fourier features
of log sigma. DDPM++ has a positional embedding, no FIR and no pyramids.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from models.attention import AttnBlockpp
from models.blocks import ResnetBlockBigGANpp, ResnetBlockDDPMpp
from models.embeddings import (
    GaussianFourierProjection,
    add_class,
    check_classes,
    noise_level,
    timestep_embedding,
)
from models.layers import Combine, Downsample, Upsample, conv3x3, dense, group_norm
from models.options import (
    ACTIVATIONS,
    activation,
    check_choice,
    check_dropout,
    check_sizes,
    check_taps,
)
from models.pixels import fence
from models.resample import check_halving

CHOICES = {
    "resblock_type": ("biggan", "ddpm"),
    "progressive": ("none", "output_skip", "residual"),
    "progressive_input": ("none", "input_skip", "residual"),
    "progressive_combine": ("sum", "cat"),
    "embedding_type": ("fourier", "positional"),
    "nonlinearity": tuple(ACTIVATIONS),
}


class NCSNpp(nn.Module):
    """A U-net with residual blocks, attention and optional image pyramids at both ends.

    Parameters have the paths and shapes of the authors' checkpoints, except that the `scale` and
    `bias` of GroupNorm are (C,) here and (1, 1, 1, C) there.

    Fields:
      nf, ch_mult: level i has `nf * ch_mult[i]` channels; each level after the first halves the
        image.
      num_res_blocks: residual blocks per level on the way down; one more on the way up.
      attn_resolutions: image heights with attention, after each block on the way down and after
        each level on the way up; the width does not matter. The middle always has attention.
      resamp_with_conv: convolve when resampling between levels; only for `resblock_type='ddpm'`.
        (Residual pyramids always convolve.)
      conditional: whether the blocks see the noise level.
      fir, fir_kernel: resample with this filter instead of nearest neighbour and mean.
      skip_rescale: divide sums of two branches by sqrt 2.
      resblock_type: 'biggan' or 'ddpm', see `models/blocks.py`.
      progressive: how the output is formed: 'none', from the last features; 'output_skip', as a
        sum of images over all levels; 'residual', from features added over all levels.
      progressive_input: how the downsampled input enters each level: 'none'; 'input_skip', by a
        1x1 convolution that `progressive_combine`, 'sum' or 'cat', joins to the features; or
        'residual', by a convolution that is added to the features.
      embedding_type: what `cond` is. 'fourier': a noise level sigma, of which the network takes
        the logarithm. 'positional': a label in [0, 999], `999 t` or an integer step.
      fourier_scale: standard deviation of the random frequencies.
      init_scale: `default_init` scale of the last convolution in every residual branch and of the
        output; 0 becomes 1e-10.
      nonlinearity: 'elu', 'relu', 'lrelu' (slope 0.2) or 'swish'.
      dropout: rate in the residual blocks; active only with `train=True` (rng 'dropout').
      scale_by_sigma: divide the output by the noise level: `cond` itself under 'fourier', entry
        `int(cond)` of the descending list of `num_scales` geometric levels from `sigma_max` to
        `sigma_min` under 'positional'.
      centered: whether x is in [-1, 1]; if not, x is in [0, 1] and the network maps it to [-1, 1].
      num_classes: number of classes that `label` may name; 0 for none. It needs `conditional`. See
        `add_class`.
      dtype: of the computation. Parameters, statistics of norms, softmax and output are float32.
      remat: recompute the activations inside each block for the gradient, to save memory.
    """

    nf: int = 128
    ch_mult: Sequence[int] = (1, 2, 2, 2)
    num_res_blocks: int = 4
    attn_resolutions: Sequence[int] = (16,)
    resamp_with_conv: bool = True
    conditional: bool = True
    fir: bool = True
    fir_kernel: Sequence[float] = (1, 3, 3, 1)
    skip_rescale: bool = True
    resblock_type: str = "biggan"
    progressive: str = "none"
    progressive_input: str = "residual"
    progressive_combine: str = "sum"
    embedding_type: str = "fourier"
    fourier_scale: float = 16.0
    init_scale: float = 0.0
    nonlinearity: str = "swish"
    dropout: float = 0.1
    scale_by_sigma: bool = False
    centered: bool = True
    num_scales: int = 1000
    sigma_min: float = 0.01
    sigma_max: float = 50.0
    num_classes: int = 0
    dtype: Any = jnp.float32
    remat: bool = False

    def check(self, shape: tuple[int, ...]) -> None:
        """Raise ValueError for a wrong option, or for images of a `shape` (..., H, W, C) that the
        network cannot take."""
        check_sizes(nf=self.nf, num_res_blocks=self.num_res_blocks, num_scales=self.num_scales)
        check_dropout(self.dropout)
        check_taps(fir_kernel=self.fir_kernel)
        for option, known in CHOICES.items():
            check_choice(option, getattr(self, option), known)
        check_classes(self.num_classes, self.conditional)
        check_halving(shape, len(self.ch_mult))

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        cond: jax.Array,
        train: bool = False,
        label: jax.Array | None = None,
    ) -> jax.Array:
        """x: (B, H, W, C); cond: (B,), see `embedding_type`; label: (B,) integers; the value
        `num_classes`, or None for all, means no class. Returns float32 of the shape of x.

        Raises:
          ValueError: see `check`.
        """
        self.check(x.shape)
        temb = self.embed(cond, label)
        h = (x if self.centered else 2 * x - 1).astype(self.dtype)
        skips = self.contract(h, temb, train)
        h = self.middle(skips[-1], temb, train)
        h = self.expand(h, skips, x.shape[-1], temb, train)
        h = h.astype(jnp.float32)
        if self.scale_by_sigma:
            h = h / self.sigma(cond)[:, None, None, None]
        return h

    def embed(self, cond: jax.Array, label: jax.Array | None = None) -> jax.Array | None:
        """Map noise levels (B,) and classes (B,) to an embedding (B, 4 nf); None without
        `conditional`."""
        if self.embedding_type == "fourier":
            # Created even if it is not used, because the authors' checkpoints hold it too.
            project = GaussianFourierProjection(self.nf, self.fourier_scale)
            temb = project(jnp.log(cond.astype(jnp.float32)))
        elif self.conditional:
            temb = timestep_embedding(cond, self.nf)
        if not self.conditional:
            return None
        temb = dense(4 * self.nf, dtype=self.dtype)(temb)
        temb = dense(4 * self.nf, dtype=self.dtype)(activation(self.nonlinearity)(temb))
        return add_class(temb, label, self.num_classes, self.dtype)

    def contract(self, x: jax.Array, temb: jax.Array | None, train: bool) -> list[jax.Array]:
        """Run the way down. Returns the features after the first convolution, after every block
        and after every halving."""
        pyramid = x
        skips = [conv3x3(self.nf, dtype=self.dtype)(x)]
        for level, mult in enumerate(self.ch_mult):
            for _ in range(self.num_res_blocks):
                h = self.block(skips[-1], temb, train, self.nf * mult)
                skips.append(self.attend(h))
            if level + 1 < len(self.ch_mult):
                h = self.halve(skips[-1], temb, train)
                h, pyramid = self.join_input(h, pyramid)
                skips.append(h)
        return skips

    def middle(self, h: jax.Array, temb: jax.Array | None, train: bool) -> jax.Array:
        """A block, attention and a block at the lowest resolution."""
        h = self.block(h, temb, train, h.shape[-1])
        h = self.attend(h, always=True)
        return self.block(h, temb, train, h.shape[-1])

    def expand(self, h, skips, channels: int, temb, train: bool) -> jax.Array:
        """Run the way up, which pops the skips from the last to the first. Returns the output
        image (B, H, W, channels)."""
        pyramid = None
        for level, mult in reversed(list(enumerate(self.ch_mult))):
            for _ in range(self.num_res_blocks + 1):
                joined = jnp.concatenate([h, skips.pop()], axis=-1)
                h = self.block(joined, temb, train, self.nf * mult)
            h = self.attend(h)
            h, pyramid = self.join_output(h, pyramid, channels)
            if level > 0:
                h = self.double(h, temb, train)
        assert not skips
        if self.progressive == "output_skip":
            return pyramid
        return self.head(h, channels, self.init_scale)

    def block(self, h, temb, train: bool, features: int, direction: str | None = None):
        """One residual block; `direction` 'up' or 'down' makes it resample (BigGAN blocks)."""
        fields = {
            "features": features,
            "act": activation(self.nonlinearity),
            "dropout": self.dropout,
            "skip_rescale": self.skip_rescale,
            "init_scale": self.init_scale,
            "dtype": self.dtype,
        }
        if self.resblock_type == "biggan":
            resampling = {"fir": self.fir, "fir_kernel": self.fir_kernel, "direction": direction}
            module = ResnetBlockBigGANpp(**fields, **resampling)
        else:
            module = ResnetBlockDDPMpp(**fields)
        return fence(self.run(module, lambda m, h, temb: m(h, temb, train), h, temb))

    def attend(self, h: jax.Array, always: bool = False) -> jax.Array:
        """Apply attention if the height of h is one of `attn_resolutions`, or `always`."""
        if not always and h.shape[1] not in self.attn_resolutions:
            return h
        module = AttnBlockpp(self.skip_rescale, self.init_scale, self.dtype)
        return self.run(module, lambda m, h: m(h), h)

    def run(self, module: nn.Module, call, *args):
        """`call(module, *args)`, rematerialised if `remat` is set.

        The call is transformed, not the class, because a transformed class would rename the
        parameters.
        """
        return (nn.remat(call) if self.remat else call)(module, *args)

    def halve(self, h: jax.Array, temb: jax.Array | None, train: bool) -> jax.Array:
        """Features at half the resolution."""
        if self.resblock_type == "biggan":
            return self.block(h, temb, train, h.shape[-1], "down")
        return self.resampler(Downsample, self.resamp_with_conv)(h)

    def double(self, h: jax.Array, temb: jax.Array | None, train: bool) -> jax.Array:
        """Features at twice the resolution."""
        if self.resblock_type == "biggan":
            return self.block(h, temb, train, h.shape[-1], "up")
        return self.resampler(Upsample, self.resamp_with_conv)(h)

    def resampler(self, module, with_conv: bool, features: int | None = None) -> nn.Module:
        return module(self.fir, self.fir_kernel, with_conv, features, self.dtype)

    def join_input(self, h: jax.Array, pyramid: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Halve the input pyramid and join it to the features h. Returns features and pyramid."""
        if self.progressive_input == "input_skip":
            pyramid = self.resampler(Downsample, False)(pyramid)
            h = Combine(self.progressive_combine, self.dtype)(pyramid, h)
        elif self.progressive_input == "residual":
            pyramid = self.resampler(Downsample, True, h.shape[-1])(pyramid)
            h = pyramid = self.add(pyramid, h)
        return h, pyramid

    def join_output(self, h, pyramid, channels: int):
        """Add this level's part to the output pyramid, which is None at the first level. Returns
        features and pyramid."""
        if self.progressive == "output_skip":
            if pyramid is None:
                return h, self.head(h, channels, self.init_scale)
            pyramid = self.resampler(Upsample, False)(pyramid)
            return h, pyramid + self.head(h, channels, self.init_scale)
        if self.progressive == "residual":
            if pyramid is None:
                return h, self.head(h, h.shape[-1])
            pyramid = self.resampler(Upsample, True, h.shape[-1])(pyramid)
            h = pyramid = self.add(pyramid, h)
        return h, pyramid

    def add(self, a: jax.Array, b: jax.Array) -> jax.Array:
        return (a + b) / math.sqrt(2) if self.skip_rescale else a + b

    def head(self, h: jax.Array, channels: int, scale: float = 1.0) -> jax.Array:
        """Norm, nonlinearity and a 3x3 convolution."""
        h = activation(self.nonlinearity)(group_norm(h.shape[-1], dtype=self.dtype)(h))
        return conv3x3(channels, scale=scale, dtype=self.dtype)(h)

    def sigma(self, cond: jax.Array) -> jax.Array:
        """The noise levels (B,), float32, by which `scale_by_sigma` divides the output."""
        if self.embedding_type == "fourier":
            return cond.astype(jnp.float32)
        return noise_level(cond, self.sigma_min, self.sigma_max, self.num_scales)
