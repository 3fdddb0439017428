"""NCSN, the network of Song and Ermon, Generative modeling by estimating gradients of the data
distribution (2019), appendix A.

NCSNv2 for small images is its successor. In NCSN the noise level enters every normalisation, as one
of a few labels.
"""

from __future__ import annotations

from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from models.backbone import ConditionalResidualBlock
from models.ncsnv2 import NCSNv2_64, check_refinenet, contract, expand, run, scale
from models.normalization import CONDITIONAL_NORMALIZATIONS, conditional_normalization
from models.options import activation, check_choice
from models.refinenet import CondRefineBlock, convolve


class NCSN(nn.Module):
    """A RefineNet with InstanceNorm++ by noise level. Fields are those of `NCSNv2`, except:

    normalization: 'InstanceNorm++'.
    num_classes: the number of labels; 0 stands for `num_scales`.

    `cond` is an integer label in [0, num_classes). Height and width must be even.
    """

    STAGES: ClassVar = NCSNv2_64.STAGES
    REFINED: ClassVar = NCSNv2_64.REFINED

    nf: int = 128
    normalization: str = "InstanceNorm++"
    nonlinearity: str = "elu"
    interpolation: str = "bilinear"
    scale_by_sigma: bool = False
    centered: bool = False
    num_scales: int = 10
    num_classes: int = 0
    sigma_min: float = 0.01
    sigma_max: float = 50.0
    dtype: Any = jnp.float32
    remat: bool = False

    def check(self, shape: tuple[int, ...]) -> None:
        """Raise ValueError for a wrong option, or for images of a `shape` (..., H, W, C) that the
        network cannot take."""
        check_choice("normalization", self.normalization, CONDITIONAL_NORMALIZATIONS)
        check_refinenet(self, shape)

    @nn.compact
    def __call__(self, x: jax.Array, cond: jax.Array, train: bool = False) -> jax.Array:
        """x: (B, H, W, C); cond: (B,) labels. Returns float32 of the shape of x.

        Raises:
          ValueError: see `check`.
        """
        self.check(x.shape)
        labels = cond.astype(jnp.int32)
        act, classes = activation(self.nonlinearity), self.num_classes or self.num_scales
        norm = conditional_normalization(self.normalization, classes, self.dtype)
        shared = {"norm": norm, "act": act, "dtype": self.dtype}

        def residual(h, **fields):
            return run(self, ConditionalResidualBlock(**fields, **shared), h, labels)

        def refine(hs, **fields):
            block = CondRefineBlock(interpolation=self.interpolation, **fields, **shared)
            return run(self, block, hs, labels)

        h = (x if self.centered else 2 * x - 1).astype(self.dtype)
        h = convolve(h, self.nf, dtype=self.dtype)
        h = expand(self, contract(self, h, residual), refine)
        h = convolve(act(norm(h, labels)), x.shape[-1], dtype=self.dtype)
        return scale(self, h, labels)
