"""Inception-v3, the network whose features are compared.

Szegedy et al. 2016, "Rethinking the Inception Architecture for Computer Vision", arXiv:1512.00567,
table 1, with the widths of the released code. Two sets of weights are in use, and their networks
differ in the pooling inside the blocks:

- the TensorFlow graph of 2015-12-05, with which the Inception score (Salimans et al. 2016,
  arXiv:1606.03498) and the Frechet Inception distance (Heusel et al. 2017, arXiv:1706.08500) are
  measured: 1008 classes, means over the pixels inside the image, and a maximum in the last block;
- the network of torchvision: 1000 classes, and means over nine pixels with zeros outside the image.
"""

from __future__ import annotations

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from evaluation.spaces.inception.blocks import Branch, ConvReLU, Layer, Mixed, halve

SMALLEST = 75  # pixels a side, for which the last grid is a single pixel


class Outputs(NamedTuple):
    """Outputs of the network for N images, float32.

    `pool3`: (N, 2048), the features, means over the last grid. `logits`: (N, classes).
    `logits_unbiased`: logits without the last layer's bias, which the Inception score uses.
    """

    pool3: jax.Array
    logits: jax.Array
    logits_unbiased: jax.Array


class InceptionV3(nn.Module):
    """Map images (N, H, W, 3) in about [-1, 1] to `Outputs`; sides are 75 or more, usually 299.

    Fields:
      num_classes: number of classes of the last layer.
      pool: pooling in the blocks that keep the size of the grid, 'mean_inside' or 'mean_padded'.
      last_pool: pooling in the last block, one of the same or 'max'.
    """

    num_classes: int
    pool: str
    last_pool: str

    @nn.compact
    def __call__(self, x: jax.Array) -> Outputs:
        if x.ndim != 4 or min(x.shape[1:3]) < SMALLEST or x.shape[3] != 3:
            raise ValueError(
                f"The images have shape {x.shape}; Inception takes (N, H, W, 3) with sides of "
                f"{SMALLEST} pixels or more."
            )
        x = ConvReLU(32, (3, 3), 2, "VALID", name="Conv2d_1a_3x3")(x)
        x = ConvReLU(32, (3, 3), 1, "VALID", name="Conv2d_2a_3x3")(x)
        x = ConvReLU(64, (3, 3), name="Conv2d_2b_3x3")(x)
        x = halve(x)
        x = ConvReLU(80, name="Conv2d_3b_1x1")(x)
        x = ConvReLU(192, (3, 3), 1, "VALID", name="Conv2d_4a_3x3")(x)
        x = halve(x)
        for name, width in {"5b": 32, "5c": 64, "5d": 64}.items():
            x = Mixed(BRANCHES_35, self.pool, width, name=f"Mixed_{name}")(x)
        x = Mixed(TO_17, name="Mixed_6a")(x)
        for name, width in {"6b": 128, "6c": 160, "6d": 160, "6e": 192}.items():
            x = Mixed(branches_17(width), self.pool, 192, name=f"Mixed_{name}")(x)
        x = Mixed(TO_8, name="Mixed_7a")(x)
        x = Mixed(BRANCHES_8, self.pool, 192, name="Mixed_7b")(x)
        x = Mixed(BRANCHES_8, self.last_pool, 192, name="Mixed_7c")(x)
        return Head(self.num_classes, name="fc")(jnp.mean(x, axis=(1, 2)))


class Head(nn.Module):
    """The last layer, `W^T h + b` and `W^T h`: (N, C) to `Outputs`. W: (C, num_classes)."""

    num_classes: int

    @nn.compact
    def __call__(self, pool3: jax.Array) -> Outputs:
        shape = (pool3.shape[-1], self.num_classes)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, shape[1:], jnp.float32)
        logits = jnp.matmul(pool3, kernel, precision=lax.Precision.HIGHEST)
        return Outputs(pool3, logits + bias, logits)


# The numbers 35, 17 and 8 are the sides of the grid for images of 299 pixels. Figure 5:
BRANCHES_35: tuple[Branch, ...] = (
    (Layer("branch1x1", 64),),
    (Layer("branch5x5_1", 48), Layer("branch5x5_2", 64, (5, 5))),
    (
        Layer("branch3x3dbl_1", 64),
        Layer("branch3x3dbl_2", 96, (3, 3)),
        Layer("branch3x3dbl_3", 96, (3, 3)),
    ),
)
# Figure 10:
TO_17: tuple[Branch, ...] = (
    (Layer("branch3x3", 384, (3, 3), 2),),
    (
        Layer("branch3x3dbl_1", 64),
        Layer("branch3x3dbl_2", 96, (3, 3)),
        Layer("branch3x3dbl_3", 96, (3, 3), 2),
    ),
)
TO_8: tuple[Branch, ...] = (
    (Layer("branch3x3_1", 192), Layer("branch3x3_2", 320, (3, 3), 2)),
    (
        Layer("branch7x7x3_1", 192),
        Layer("branch7x7x3_2", 192, (1, 7)),
        Layer("branch7x7x3_3", 192, (7, 1)),
        Layer("branch7x7x3_4", 192, (3, 3), 2),
    ),
)
# Figure 7:
BRANCHES_8: tuple[Branch, ...] = (
    (Layer("branch1x1", 320),),
    (
        Layer("branch3x3_1", 384),
        (Layer("branch3x3_2a", 384, (1, 3)), Layer("branch3x3_2b", 384, (3, 1))),
    ),
    (
        Layer("branch3x3dbl_1", 448),
        Layer("branch3x3dbl_2", 384, (3, 3)),
        (Layer("branch3x3dbl_3a", 384, (1, 3)), Layer("branch3x3dbl_3b", 384, (3, 1))),
    ),
)


def branches_17(width: int) -> tuple[Branch, ...]:
    """Figure 6 with n = 7: 7x7 convolutions as pairs of 1x7 and 7x1, `width` channels inside."""
    return (
        (Layer("branch1x1", 192),),
        (
            Layer("branch7x7_1", width),
            Layer("branch7x7_2", width, (1, 7)),
            Layer("branch7x7_3", 192, (7, 1)),
        ),
        (
            Layer("branch7x7dbl_1", width),
            Layer("branch7x7dbl_2", width, (7, 1)),
            Layer("branch7x7dbl_3", width, (1, 7)),
            Layer("branch7x7dbl_4", width, (7, 1)),
            Layer("branch7x7dbl_5", 192, (1, 7)),
        ),
    )
