"""NCSNv2, the networks of Song and Ermon, Improved techniques for training score-based generative
models (2020), appendix B: one for images below 96 pixels, one up to 128 and one up to 256.

The network does not see the noise level; only its output is divided by that level.
"""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from models.backbone import ResidualBlock
from models.embeddings import noise_level
from models.normalization import NORMALIZATIONS, normalization
from models.options import ACTIVATIONS, activation, check_choice, check_sizes
from models.refinenet import INTERPOLATIONS, RefineBlock, convolve
from models.resample import check_halving


class Stage(NamedTuple):
    """Two residual blocks on the way down, with `factor * nf` channels.

    The first block changes the channels and, if `dilation` is 1, halves the image. The first block
    of the first stage does neither.
    """

    factor: int
    dilation: int = 1


class NCSNv2(nn.Module):
    """The abstract base of the three networks, which add `STAGES` and `REFINED`.

    Fields:
      nf: channels at full resolution.
      normalization: 'InstanceNorm++', 'VarianceNorm', 'InstanceNorm' or 'GroupNorm', on the way
        down and before the last convolution. The RefineNet has no other normalisation.
      nonlinearity: 'elu', 'relu', 'lrelu' (slope 0.2) or 'swish'.
      interpolation: 'bilinear' or 'nearest_neighbor', for the upsampling.
      scale_by_sigma: divide the output by the noise level, entry `int(cond)` of the descending
        list of `num_scales` geometric levels from `sigma_max` to `sigma_min`.
      centered: whether x is in [-1, 1]; if not, x is in [0, 1] and the network maps it to [-1, 1].
      dtype: of the computation. Parameters, statistics of norms and output are float32.
      remat: recompute the activations inside each block for the gradient, to save memory.

    Parameters have the paths and shapes of the authors' checkpoints, except that the `scale` and
    `bias` of GroupNorm are (C,) here and (1, 1, 1, C) there.
    """

    STAGES: ClassVar[tuple[Stage, ...]]
    REFINED: ClassVar[tuple[int, ...]]  # factors of nf on the way up, the last stage first

    nf: int = 128
    normalization: str = "InstanceNorm++"
    nonlinearity: str = "elu"
    interpolation: str = "bilinear"
    scale_by_sigma: bool = True
    centered: bool = False
    num_scales: int = 232
    sigma_min: float = 0.01
    sigma_max: float = 50.0
    dtype: Any = jnp.float32
    remat: bool = False

    def check(self, shape: tuple[int, ...]) -> None:
        """Raise ValueError for a wrong option, or for images of a `shape` (..., H, W, C) that the
        network cannot take."""
        check_choice("normalization", self.normalization, NORMALIZATIONS)
        check_refinenet(self, shape)

    @nn.compact
    def __call__(self, x: jax.Array, cond: jax.Array, train: bool = False) -> jax.Array:
        """x: (B, H, W, C); cond: (B,), indices of noise levels, 0 the noisiest. Returns float32 of
        the shape of x.

        Raises:
          ValueError: see `check`.
        """
        self.check(x.shape)
        act, norm = activation(self.nonlinearity), normalization(self.normalization, self.dtype)
        shared = {"act": act, "dtype": self.dtype}

        def residual(h, **fields):
            return run(self, ResidualBlock(norm=norm, **fields, **shared), h)

        def refine(hs, **fields):
            return run(self, RefineBlock(interpolation=self.interpolation, **fields, **shared), hs)

        h = (x if self.centered else 2 * x - 1).astype(self.dtype)
        h = convolve(h, self.nf, dtype=self.dtype)
        h = expand(self, contract(self, h, residual), refine)
        h = convolve(act(norm(h)), x.shape[-1], dtype=self.dtype)
        return scale(self, h, cond)


class NCSNv2_64(NCSNv2):
    """For images below 96 pixels. Height and width must be even."""

    STAGES = (Stage(1), Stage(2), Stage(2, dilation=2), Stage(2, dilation=4))
    REFINED = (2, 2, 2, 1)


class NCSNv2_128(NCSNv2):
    """For images of 96 to 128 pixels. Height and width must be multiples of 4."""

    STAGES = (Stage(1), Stage(2), Stage(2), Stage(4, dilation=2), Stage(4, dilation=4))
    REFINED = (4, 2, 2, 1, 1)


class NCSNv2_256(NCSNv2):
    """For images of 128 to 256 pixels. Height and width must be multiples of 8."""

    STAGES = (Stage(1), Stage(2), Stage(2), Stage(2), Stage(4, dilation=2), Stage(4, dilation=4))
    REFINED = (4, 2, 2, 2, 1, 1)


def check_refinenet(model, shape: tuple[int, ...]) -> None:
    """Raise ValueError for options or shapes that no network with `STAGES` can have."""
    check_sizes(nf=model.nf, num_scales=model.num_scales)
    check_choice("nonlinearity", model.nonlinearity, ACTIVATIONS)
    check_choice("interpolation", model.interpolation, INTERPOLATIONS)
    check_halving(shape, sum(stage.dilation == 1 for stage in model.STAGES))


def contract(model, h: jax.Array, residual) -> list[jax.Array]:
    """Run the way down. Returns the features at the end of each stage.

    `residual(h, **fields)` runs a residual block.
    """
    outputs = []
    for i, (factor, dilation) in enumerate(model.STAGES):
        fields = {"features": factor * model.nf, "dilation": dilation}
        h = residual(residual(h, down=i > 0, **fields), **fields)
        outputs.append(h)
    return outputs


def expand(model, outputs: list[jax.Array], refine) -> jax.Array:
    """Run the way up, which pops the features of the stages from the last to the first.

    `refine(hs, **fields)` runs a RefineNet block on one or two inputs.
    """
    h = None
    for factor in model.REFINED:
        hs = [outputs.pop()] + ([] if h is None else [h])
        h = refine(hs, features=factor * model.nf, end=not outputs)
    return h


def run(model, module: nn.Module, *args):
    """`module(*args)`, rematerialised if `remat` is set.

    The call is transformed, not the class, because a transformed class would rename the parameters.
    """

    def call(module, *args):
        return module(*args)

    return (nn.remat(call) if model.remat else call)(module, *args)


def scale(model, h: jax.Array, cond: jax.Array) -> jax.Array:
    """The output in float32, divided by the noise level if `scale_by_sigma` is set."""
    h = h.astype(jnp.float32)
    if not model.scale_by_sigma:
        return h
    sigma = noise_level(cond, model.sigma_min, model.sigma_max, model.num_scales)
    return h / sigma[:, None, None, None]
