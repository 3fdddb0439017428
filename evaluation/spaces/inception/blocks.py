"""The blocks of Inception-v3: parallel branches of convolutions, concatenated along the channels.

Szegedy et al. 2016, "Rethinking the Inception Architecture for Computer Vision", arXiv:1512.00567,
figures 5 to 7 and 10. Layers have the names of torchvision's state dicts, so that a key of a state
dict is the path of a parameter.
"""

from __future__ import annotations

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

POOLS = ("mean_inside", "mean_padded", "max")


class Layer(NamedTuple):
    """A convolution by name: SAME with stride 1, VALID with stride 2."""

    name: str
    features: int
    kernel: tuple[int, int] = (1, 1)
    stride: int = 1


# A branch is a chain of layers; a tuple in it holds layers that read the same input.
Branch = tuple[Layer | tuple[Layer, ...], ...]


class ConvReLU(nn.Module):
    """`relu(W * x + b)`: (B, H, W, C) to (B, H', W', features).

    The released layers have a BatchNorm with fixed statistics in place of a bias. Here the
    BatchNorm is folded into W and b, see `import_torch`.
    """

    features: int
    kernel: tuple[int, int] = (1, 1)
    stride: int = 1
    padding: str = "SAME"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        strides = (self.stride, self.stride)
        # On GPUs and TPUs the default precision rounds the factors, which changes the features.
        exact = lax.Precision.HIGHEST
        conv = nn.Conv(
            self.features, self.kernel, strides, self.padding, precision=exact, name="conv"
        )
        return nn.relu(conv(x))


def pool(x: jax.Array, kind: str) -> jax.Array:
    """Pool the 3x3 neighbourhood of every pixel, (B, H, W, C) to the same shape.

    `kind` is 'mean_inside', the mean over the neighbours inside the image; 'mean_padded', their sum
    divided by nine; or 'max'.

    Raises:
        ValueError: any other `kind`.
    """
    if kind not in POOLS:
        raise ValueError(f"pool is {kind!r}; it must be one of {', '.join(POOLS)}.")
    if kind == "max":
        return nn.max_pool(x, (3, 3), padding="SAME")
    padded = kind == "mean_padded"
    return nn.avg_pool(x, (3, 3), padding="SAME", count_include_pad=padded)


def halve(x: jax.Array) -> jax.Array:
    """The maximum over windows of 3x3 pixels with stride 2: H to (H - 3) // 2 + 1."""
    return nn.max_pool(x, (3, 3), (2, 2))


class Mixed(nn.Module):
    """Branches and a pooling branch, concatenated in this order along the channels.

    Fields:
      branches: chains of convolutions.
      pool: kind of the pooling branch, as in `pool`; a convolution to `pool_features` channels
        follows.
      pool_features: 0 for a block that halves the image, whose pooling branch is `halve` alone.
    """

    branches: tuple[Branch, ...]
    pool: str = "max"
    pool_features: int = 0

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        parts = [self.follow(branch, x) for branch in self.branches]
        if self.pool_features:
            last = Layer("branch_pool", self.pool_features)
            parts.append(self.follow((last,), pool(x, self.pool)))
        else:
            parts.append(halve(x))
        return jnp.concatenate(parts, axis=-1)

    def follow(self, branch: Branch, x: jax.Array) -> jax.Array:
        for stage in branch:
            pair = (stage,) if isinstance(stage, Layer) else stage
            x = jnp.concatenate([self.convolve(layer, x) for layer in pair], axis=-1)
        return x

    def convolve(self, layer: Layer, x: jax.Array) -> jax.Array:
        name, features, kernel, stride = layer
        padding = "SAME" if stride == 1 else "VALID"
        return ConvReLU(features, kernel, stride, padding, name=name)(x)
