"""DDPM, the U-net of Ho, Jain and Abbeel, Denoising diffusion probabilistic models (2020), appendix
B, in the form of Song et al. (2021). Its successors are the options of `models/ncsnpp.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from models.attention import AttnBlock
from models.blocks import ResnetBlockDDPM
from models.embeddings import add_class, check_classes, noise_level, timestep_embedding
from models.layers import Downsample, Upsample, conv3x3, dense
from models.normalization import NORMALIZATIONS, normalization
from models.options import ACTIVATIONS, activation, check_choice, check_dropout, check_sizes
from models.pixels import fence
from models.resample import check_halving


class DDPM(nn.Module):
    """A U-net with residual blocks and attention.

    Parameters have the paths and shapes of the authors' checkpoints, except that the `scale` and
    `bias` of GroupNorm are (C,) here and (1, 1, 1, C) there.

    Fields:
      nf, ch_mult: level i has `nf * ch_mult[i]` channels; each level after the first halves the
        image. GroupNorm has 32 groups, or the next smaller number that divides the channels.
      num_res_blocks: residual blocks per level on the way down; one more on the way up.
      attn_resolutions: image heights with attention, after each block on the way down and after
        each level on the way up. The middle always has attention.
      resamp_with_conv: convolve when resampling; otherwise nearest neighbour and mean.
      conditional: whether the blocks see the noise level.
      normalization: 'GroupNorm', 'InstanceNorm++', 'VarianceNorm' or 'InstanceNorm'.
      nonlinearity: 'elu', 'relu', 'lrelu' (slope 0.2) or 'swish'.
      dropout: rate in the residual blocks; active only with `train=True` (rng 'dropout').
      scale_by_sigma: divide the output by entry `int(cond)` of the descending list of `num_scales`
        geometric levels from `sigma_max` to `sigma_min`.
      centered: whether x is in [-1, 1]; if not, x is in [0, 1] and the network maps it to [-1, 1].
      num_classes: number of classes that `label` may name; 0 for none. It needs `conditional`. See
        `add_class`.
      dtype: of the computation. Parameters, statistics of norms, softmax and output are float32.
      remat: recompute the activations inside each block for the gradient, to save memory.
    """

    nf: int = 128
    ch_mult: Sequence[int] = (1, 2, 2, 2)
    num_res_blocks: int = 2
    attn_resolutions: Sequence[int] = (16,)
    resamp_with_conv: bool = True
    conditional: bool = True
    normalization: str = "GroupNorm"
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
        check_choice("normalization", self.normalization, NORMALIZATIONS)
        check_choice("nonlinearity", self.nonlinearity, ACTIVATIONS)
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
        """x: (B, H, W, C); cond: (B,) in [0, 999]; label: (B,) integers; the value `num_classes`,
        or None for all, means no class. Returns float32 of the shape of x.

        Raises:
          ValueError: see `check`.
        """
        self.check(x.shape)
        temb = self.embed(cond, label)
        h = (x if self.centered else 2 * x - 1).astype(self.dtype)
        skips = self.contract(h, temb, train)
        h = self.block(skips[-1], temb, train, skips[-1].shape[-1])
        h = self.attend(h, always=True)
        h = self.block(h, temb, train, h.shape[-1])
        h = self.act(self.norm(self.expand(h, skips, temb, train)))
        h = conv3x3(x.shape[-1], scale=0.0, dtype=self.dtype)(h).astype(jnp.float32)
        if self.scale_by_sigma:
            sigma = noise_level(cond, self.sigma_min, self.sigma_max, self.num_scales)
            h = h / sigma[:, None, None, None]
        return h

    def embed(self, cond: jax.Array, label: jax.Array | None = None) -> jax.Array | None:
        """Map times (B,) and classes (B,) to an embedding (B, 4 nf); None without `conditional`."""
        if not self.conditional:
            return None
        temb = dense(4 * self.nf, dtype=self.dtype)(timestep_embedding(cond, self.nf))
        temb = dense(4 * self.nf, dtype=self.dtype)(self.act(temb))
        return add_class(temb, label, self.num_classes, self.dtype)

    def contract(self, h: jax.Array, temb: jax.Array | None, train: bool) -> list[jax.Array]:
        """Run the way down. Returns the features after the first convolution, after every block
        and after every halving."""
        skips = [conv3x3(self.nf, dtype=self.dtype)(h)]
        for level, mult in enumerate(self.ch_mult):
            for _ in range(self.num_res_blocks):
                h = self.block(skips[-1], temb, train, self.nf * mult)
                skips.append(self.attend(h))
            if level + 1 < len(self.ch_mult):
                skips.append(self.resampler(Downsample)(skips[-1]))
        return skips

    def expand(self, h, skips, temb: jax.Array | None, train: bool) -> jax.Array:
        """Run the way up, which pops the skips from the last to the first."""
        for level, mult in reversed(list(enumerate(self.ch_mult))):
            for _ in range(self.num_res_blocks + 1):
                joined = jnp.concatenate([h, skips.pop()], axis=-1)
                h = self.block(joined, temb, train, self.nf * mult)
            h = self.attend(h)
            if level > 0:
                h = self.resampler(Upsample)(h)
        assert not skips
        return h

    def block(self, h, temb: jax.Array | None, train: bool, features: int) -> jax.Array:
        """One residual block."""
        module = ResnetBlockDDPM(features, self.norm, self.act, self.dropout, self.dtype)
        return fence(self.run(module, lambda m, h, temb: m(h, temb, train), h, temb))

    def attend(self, h: jax.Array, always: bool = False) -> jax.Array:
        """Apply attention if the height of h is one of `attn_resolutions`, or `always`."""
        if not always and h.shape[1] not in self.attn_resolutions:
            return h
        return self.run(AttnBlock(self.norm, self.dtype), lambda m, h: m(h), h)

    def run(self, module: nn.Module, call, *args):
        """`call(module, *args)`, rematerialised if `remat` is set; see `NCSNpp.run`."""
        return (nn.remat(call) if self.remat else call)(module, *args)

    def resampler(self, module) -> nn.Module:
        return module(fir=False, fir_kernel=(), with_conv=self.resamp_with_conv, dtype=self.dtype)

    @property
    def act(self):
        return activation(self.nonlinearity)

    @property
    def norm(self):
        return normalization(self.normalization, self.dtype)
