"""Self-attention over the pixels of an image."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from models.layers import NIN, group_norm


class AttnBlockpp(nn.Module):
    """`x + NIN_3(softmax(q k^T / sqrt(C)) v)`, with q, k, v = NIN_0, 1, 2 of GroupNorm(x).

    There is one head over all H W positions (Vaswani et al., 2017, eq. 1; Ho et al., 2020, appendix
    B). With `skip_rescale` the sum is divided by sqrt 2. The softmax is computed in float32.
    Input and output: (B, H, W, C).
    """

    skip_rescale: bool
    init_scale: float
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        h = group_norm(x.shape[-1], dtype=self.dtype)(x)
        h = _attend(h, self.init_scale, self.dtype)
        return (x + h) / math.sqrt(2) if self.skip_rescale else x + h


class AttnBlock(nn.Module):
    """As `AttnBlockpp`, without rescaling and with any normalisation, as in DDPM.

    `norm` is a function of x that creates its layer inside the block. Input and output have shape
    (B, H, W, C).
    """

    norm: Callable[[jax.Array], jax.Array]
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return x + _attend(self.norm(x), 0.0, self.dtype)


def _attend(h: jax.Array, init_scale: float, dtype: Any) -> jax.Array:
    """`NIN_3(softmax(q k^T / sqrt(C)) v)` with q, k, v = NIN_0, 1, 2 of h: (B, H, W, C)."""
    b, height, width, c = h.shape
    pixels = h.reshape(b, height * width, c)
    q, k, v = (NIN(c, dtype=dtype)(pixels) for _ in range(3))
    logits = jnp.einsum("bqc,bkc->bqk", q, k, preferred_element_type=jnp.float32)
    weights = jax.nn.softmax(logits / math.sqrt(c), axis=-1).astype(dtype)
    values = jnp.einsum("bqk,bkc->bqc", weights, v)
    return NIN(c, init_scale, dtype=dtype)(values).reshape(h.shape)
