"""Embeddings of the noise level, sinusoids with fixed or random frequencies, and of the class."""

from __future__ import annotations

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp


def timestep_embedding(t: jax.Array, dim: int, max_period: float = 10_000.0) -> jax.Array:
    """Sinusoids of `t` at geometrically spaced frequencies, sines first and then cosines.

    Entry i of each half has the angular frequency `max_period ** (-i / (dim // 2 - 1))`
    (Vaswani et al., Attention is all you need, 2017, section 3.5, as used by Ho et al.,
    Denoising diffusion probabilistic models, 2020, appendix B).

    Args:
      t: (B,) labels, integers or floats; the frequencies suit a range of about [0, 1000].
      dim: width of the result, at least 4. If it is odd, the last entry is zero.

    Returns:
      (B, dim) float32.

    Raises:
      ValueError: `dim` is below 4.
    """
    if dim < 4:
        raise ValueError(f"A sinusoidal embedding needs a width of at least 4, got {dim}.")
    half = dim // 2
    exponents = jnp.arange(half, dtype=jnp.float32) / (half - 1)
    frequencies = jnp.exp(-math.log(max_period) * exponents)
    angles = t.astype(jnp.float32)[:, None] * frequencies[None, :]
    embedding = jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)
    return jnp.pad(embedding, ((0, 0), (0, dim % 2)))


class GaussianFourierProjection(nn.Module):
    """Sinusoids of random frequency, `[sin(2 pi w u), cos(2 pi w u)]` with w ~ N(0, scale^2).

    Tancik et al., Fourier features let networks learn high frequency functions in low dimensional
    domains (2020); with u = log(sigma) in Song et al. (2021). The frequencies are parameters, so
    that a checkpoint holds them, but receive no gradient.

    Input (B,), output (B, 2 * embedding_size), both float32.
    """

    embedding_size: int
    scale: float = 16.0

    @nn.compact
    def __call__(self, u: jax.Array) -> jax.Array:
        init = nn.initializers.normal(stddev=self.scale)
        w = self.param("W", init, (self.embedding_size,), jnp.float32)
        w = jax.lax.stop_gradient(w)[None, :]
        angles = 2 * math.pi * u.astype(jnp.float32)[:, None] * w
        return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


def frozen(path: tuple, leaf: jax.Array) -> bool:
    """Whether a parameter is never trained. Only the frequencies of `GaussianFourierProjection`
    are not; no other vector is called `W`. `path` is as in `jax.tree_util.tree_map_with_path`."""
    return bool(path) and getattr(path[-1], "key", None) == "W" and leaf.ndim == 1


def add_class(
    embedding: jax.Array, label: jax.Array | None, num_classes: int, dtype: Any
) -> jax.Array:
    """Add the embedding of a class to the embedding (B, E) of a noise level, inside a module.

    Row `num_classes` of the table stands for no class, and is used if label is None. A network has
    learned that row if classes were dropped in training (Ho and Salimans, Classifier-free diffusion
    guidance, 2022). A network without classes has no table.
    """
    if not num_classes:
        return embedding
    if label is None:
        label = jnp.full(embedding.shape[:1], num_classes)
    init = nn.initializers.normal(1.0)
    table = nn.Embed(num_classes + 1, embedding.shape[-1], dtype, embedding_init=init, name="class")
    return embedding + table(label)


def check_classes(num_classes: int, conditional: bool) -> None:
    """Raise ValueError for classes in a network without a time embedding."""
    if num_classes and not conditional:
        raise ValueError(
            f"num_classes is {num_classes} and conditional is False; classes enter by the "
            "embedding of the noise level: set conditional=True, or num_classes=0."
        )


def noise_level(
    labels: jax.Array, sigma_min: float, sigma_max: float, num_scales: int
) -> jax.Array:
    """Entry `int(label)` of `num_scales` geometric levels, `sigma_max` first.

    labels: (B,), integers, or floats, which are rounded down. Returns (B,) float32.
    """
    logs = jnp.linspace(math.log(sigma_max), math.log(sigma_min), num_scales, dtype=jnp.float32)
    return jnp.exp(logs)[labels.astype(jnp.int32)]
