"""A residual multilayer perceptron for vectors, and for images small enough to be taken as vectors.

Almost all of its work is matrix multiplication, which a CPU does at its peak rate; small
convolutions do not come near this rate. It suits data of a few dozen dimensions.
"""

from __future__ import annotations

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from models.embeddings import GaussianFourierProjection, add_class, timestep_embedding
from models.options import ACTIVATIONS, activation, check_choice, check_dropout, check_sizes

EMBEDDING_TYPES = ("positional", "fourier", "linear")
# The values for `embedding_scale = None`. With 'linear' a log-SNR in [-15, 15] then spans 300
# radians at the fastest sinusoid; with 'positional' a label in [0, 999] spans 1000.
EMBEDDING_SCALES = {"positional": 1.0, "fourier": 1.0, "linear": 10.0}


def fourier_features(x: jax.Array, multiples: int | tuple[float, ...]) -> jax.Array:
    """Append `sin(2 pi m x)` and `cos(2 pi m x)` for every multiple m to the last axis of `x`.

    Kingma, Salimans, Poole and Ho, Variational diffusion models (2021), appendix C: given fine
    detail as an input, a network fits the likelihood of quantised data better (there m = 64 and 128
    for data in [-1, 1], sampled at 256 levels).

    Args:
      x: (..., D).
      multiples: the values of m, or an integer n for m = 1, 2, 4, ..., 2^(n-1).

    Returns:
      (..., D (1 + 2 n)), with n the number of multiples.
    """
    if isinstance(multiples, int):
        multiples = tuple(2.0**k for k in range(multiples))
    angles = [2 * math.pi * m * x for m in multiples]
    return jnp.concatenate([x, *map(jnp.sin, angles), *map(jnp.cos, angles)], axis=-1)


class ResidualBlock(nn.Module):
    """`h + W2 drop(f(W1 film(norm(h))))` with `film(u) = u (1 + scale) + shift`.

    `scale` and `shift` are linear in the time embedding (Perez et al., FiLM, 2018) and zero at
    initialisation. `norm` is a LayerNorm without scale and bias, since FiLM supplies them.
    h: (B, width), embedding: (B, E). Returns (B, width).
    """

    hidden: int
    nonlinearity: str
    dropout: float
    out_scale: float  # variance scale of W2 at initialisation
    dtype: Any

    @nn.compact
    def __call__(self, h: jax.Array, embedding: jax.Array, train: bool) -> jax.Array:
        width = h.shape[-1]
        film = nn.Dense(2 * width, kernel_init=nn.initializers.zeros, dtype=self.dtype)
        scale, shift = jnp.split(film(embedding), 2, axis=-1)
        u = nn.LayerNorm(use_scale=False, use_bias=False, dtype=self.dtype)(h)
        u = nn.Dense(self.hidden, dtype=self.dtype)(u * (1 + scale) + shift)
        u = nn.Dropout(self.dropout)(activation(self.nonlinearity)(u), deterministic=not train)
        init = nn.initializers.variance_scaling(self.out_scale, "fan_in", "truncated_normal")
        return h + nn.Dense(width, kernel_init=init, dtype=self.dtype)(u)


class MLP(nn.Module):
    """A residual perceptron on the flattened `x`, with FiLM from an embedding of the noise level.

    The output is float32, has the shape of `x`, and is zero at initialisation.

    Fields:
      width: size of the residual stream.
      depth: number of residual blocks.
      expansion: the hidden layer of a block has `expansion * width` units.
      dropout: rate in each block's hidden layer; active only with `train=True` (rng 'dropout').
      nonlinearity: 'elu', 'relu', 'lrelu' or 'swish'.
      time_dim: size of the noise level's embedding, at least 4.
      embedding_type: what `cond`, of shape (B,), is:
        'positional': a label in [0, 999], such as `999 t`; its sinusoids are taken;
        'fourier': a noise level sigma > 0; sinusoids of log(sigma) at random frequencies;
        'linear': a log-SNR, or any other number of moderate size and either sign; its sinusoids
        are taken, and a tenth of the number itself.
      embedding_scale: a factor of the label before the sinusoids are taken ('positional',
        'linear'), or the standard deviation of the random frequencies ('fourier', in cycles per
        unit of log sigma). None stands for 1 ('positional'), 10 ('linear') and 1 ('fourier'). A
        smaller value gives a network that is smoother in the noise level.
      fourier_features: multiples m for which sin and cos of `2 pi m x` join the input; an integer
        n stands for 1, 2, ..., 2^(n-1). Off by default. See `fourier_features` above.
      num_classes: number of classes that `label` may name; 0 for none. See `add_class`.
      dtype: of the computation; parameters stay float32.
    """

    width: int = 512
    depth: int = 4
    expansion: int = 1
    dropout: float = 0.0
    nonlinearity: str = "swish"
    time_dim: int = 128
    embedding_type: str = "positional"
    embedding_scale: float | None = None
    fourier_features: int | tuple[float, ...] = ()
    num_classes: int = 0
    dtype: Any = jnp.float32

    def check(self, shape: tuple[int, ...] = ()) -> None:
        """Raise ValueError for options that no network can have; any shape of `x` is legal."""
        check_sizes(width=self.width, depth=self.depth, expansion=self.expansion)
        check_dropout(self.dropout)
        check_choice("nonlinearity", self.nonlinearity, ACTIVATIONS)
        check_choice("embedding_type", self.embedding_type, EMBEDDING_TYPES)
        if self.time_dim < 4:
            raise ValueError(f"time_dim must be at least 4, got {self.time_dim}.")

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        cond: jax.Array,
        train: bool = False,
        label: jax.Array | None = None,
    ) -> jax.Array:
        """x: (B, ...); cond: (B,), see `embedding_type`; label: (B,) integers; the value
        `num_classes`, or None for all, means no class. Returns float32 of the shape of x.

        Raises:
          ValueError: see `check`.
        """
        self.check(x.shape)
        h = self.features(x, self.embed(cond, label), train)
        init = nn.initializers.zeros
        size = math.prod(x.shape[1:])
        h = nn.Dense(size, kernel_init=init, dtype=jnp.float32, name="output")(h)
        return h.reshape(x.shape)

    def features(self, x: jax.Array, embedding: jax.Array, train: bool) -> jax.Array:
        """Run all layers but the last one: x (B, ...) and embedding (B, E) to (B, width)."""
        flat = x.reshape(x.shape[0], -1)
        # Features of x are taken in float32: at m = 128 bfloat16 has no correct digit left.
        h = fourier_features(flat, self.fourier_features)
        h = nn.Dense(self.width, dtype=self.dtype, name="input")(h)
        for i in range(self.depth):
            h = ResidualBlock(
                hidden=self.expansion * self.width,
                nonlinearity=self.nonlinearity,
                dropout=self.dropout,
                # The variance that all blocks together add to the stream is independent of depth.
                out_scale=1.0 / self.depth,
                dtype=self.dtype,
                name=f"block_{i}",
            )(h, embedding, train)
        return nn.LayerNorm(dtype=self.dtype, name="norm")(h)

    def embed(self, cond: jax.Array, label: jax.Array | None = None) -> jax.Array:
        """Map noise levels (B,) and classes (B,) to features (B, time_dim), which end in a
        nonlinearity."""
        f = activation(self.nonlinearity)
        scale = self.embedding_scale
        scale = EMBEDDING_SCALES[self.embedding_type] if scale is None else scale
        cond = cond.astype(jnp.float32)
        if self.embedding_type == "fourier":
            project = GaussianFourierProjection(self.time_dim // 2, scale, name="fourier")
            e = project(jnp.log(cond))
        else:
            e = timestep_embedding(scale * cond, self.time_dim)
        if self.embedding_type == "linear":
            e = jnp.concatenate([e, cond[:, None] / 10.0], axis=-1)
        e = f(nn.Dense(self.time_dim, dtype=self.dtype, name="time_0")(e))
        e = add_class(e, label, self.num_classes, self.dtype)
        return f(nn.Dense(self.time_dim, dtype=self.dtype, name="time_1")(e))


class MLPClassifier(MLP):
    """The perceptron `MLP` with a last layer that gives float32 logits (B, num_classes).

    `cond` is a noise level sigma > 0 for every `embedding_type`; the network takes its logarithm.
    """

    num_classes: int = 10

    @nn.compact
    def __call__(self, x: jax.Array, cond: jax.Array, train: bool = False) -> jax.Array:
        self.check(x.shape)
        level = cond if self.embedding_type == "fourier" else jnp.log(cond.astype(jnp.float32))
        h = self.features(x, self.embed(level), train)
        return nn.Dense(self.num_classes, dtype=jnp.float32, name="head")(h)
