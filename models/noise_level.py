"""Networks that estimate how noisy a state is: `y = x0 + sigma z` to logits of the level of sigma.

Kim & Ye 2023 (Denoising MCMC, arXiv 2209.14593) use a small one to move a chain from one noise
level to another. Both networks here scale y to unit size first and take its log size as a feature,
with `size^2 = 1 + mean y^2`. Sigma spans four decades, and a large sigma is close to that size.

The networks have the argument `cond` of other networks and ignore it, as they estimate the noise
level themselves.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from models.options import ACTIVATIONS, activation, check_choice, check_dropout, check_sizes
from models.resample import mean_downsample


def to_unit_size(y: jax.Array) -> tuple[jax.Array, jax.Array]:
    """`y / size` (B, ...) and the features `(log size, log^2 size)` (B, 2), for y (B, ...).

    For large sigma the log-posterior of level k is, to second order, a constant minus
    `D (log size - log sigma_k)^2`, with D the dimension of y. It is linear in the two features, up
    to a term that all levels share.
    """
    square = jnp.mean(y.reshape(y.shape[0], -1) ** 2, axis=-1)
    log_size = 0.5 * jnp.log1p(square)
    scale = jnp.exp(-log_size).reshape(-1, *(1,) * (y.ndim - 1))
    return y * scale, jnp.stack([log_size, log_size**2], axis=-1)


class NoiseLevelCNN(nn.Module):
    """The network of the paper: convolutions of 32, 64, 128, 256 channels, average pooling, linear
    head.

    After each convolution pixels are averaged over 2x2 squares while the image has at least two
    pixels each way; at the end all remaining pixels are averaged. y: (B, H, W, C). Returns float32
    logits (B, levels).

    Fields:
      levels: number of noise levels, at least 2.
      widths: channels of the 3x3 convolutions.
      nonlinearity: 'elu', 'relu', 'lrelu' or 'swish'.
      dtype: of the computation; parameters stay float32.
    """

    levels: int = 1000
    widths: tuple[int, ...] = (32, 64, 128, 256)
    nonlinearity: str = "relu"
    dtype: Any = jnp.float32

    def check(self, shape: tuple[int, ...]) -> None:
        """Raise ValueError for a wrong option, or for examples whose `shape` is not (H, W, C)."""
        check_classifier(self.levels, self.nonlinearity)
        if len(shape) != 3:
            raise ValueError(
                f"The examples have the shape {tuple(shape)}; 'noise_level_cnn' takes images "
                "(H, W, C): take 'noise_level_mlp' for other data."
            )

    @nn.compact
    def __call__(self, y: jax.Array, cond: Any = None, train: bool = False) -> jax.Array:
        del cond, train  # no dropout
        self.check(y.shape[1:])
        h, size = to_unit_size(y)
        for width in self.widths:
            h = activation(self.nonlinearity)(nn.Conv(width, (3, 3), dtype=self.dtype)(h))
            height, breadth = h.shape[1] // 2 * 2, h.shape[2] // 2 * 2
            if height and breadth:
                # An odd last row or column is dropped, as in pooling without padding.
                h = mean_downsample(h[:, :height, :breadth])
        features = [jnp.mean(h, axis=(1, 2)).astype(jnp.float32), size]
        return nn.Dense(self.levels, name="head")(jnp.concatenate(features, axis=-1))


class NoiseLevelMLP(nn.Module):
    """A perceptron on the flattened y, for vectors and small images. y: (B, ...).

    Returns float32 logits (B, levels).

    Fields:
      levels: number of noise levels, at least 2.
      width, depth: units and number of the hidden layers.
      nonlinearity: 'elu', 'relu', 'lrelu' or 'swish'.
      dropout: rate after each hidden layer; active only with `train=True` (rng 'dropout').
      dtype: of the computation; parameters stay float32.
    """

    levels: int = 1000
    width: int = 512
    depth: int = 3
    nonlinearity: str = "swish"
    dropout: float = 0.0
    dtype: Any = jnp.float32

    def check(self, shape: tuple[int, ...] = ()) -> None:
        """Raise ValueError for options that no network can have; any shape of y is legal."""
        check_sizes(width=self.width, depth=self.depth)
        check_dropout(self.dropout)
        check_classifier(self.levels, self.nonlinearity)

    @nn.compact
    def __call__(self, y: jax.Array, cond: Any = None, train: bool = False) -> jax.Array:
        del cond
        self.check(y.shape[1:])
        unit, size = to_unit_size(y)
        h = jnp.concatenate([unit.reshape(y.shape[0], -1), size], axis=-1)
        for i in range(self.depth):
            h = nn.Dense(self.width, dtype=self.dtype, name=f"hidden_{i}")(h)
            h = activation(self.nonlinearity)(h)
            h = nn.Dropout(self.dropout)(h, deterministic=not train)
        h = jnp.concatenate([h.astype(jnp.float32), size], axis=-1)
        return nn.Dense(self.levels, name="head")(h)


def check_classifier(levels: int, nonlinearity: str) -> None:
    if levels < 2:
        raise ValueError(f"levels is {levels}; take at least 2.")
    check_choice("nonlinearity", nonlinearity, ACTIVATIONS)
