"""Self-attention over the pixels of an image."""

from __future__ import annotations

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from models.layers import NIN, group_norm


class AttnBlockpp(nn.Module):
    """`x + NIN_3(softmax(q k^T / sqrt(C)) v)`, with q, k, v = NIN_0, 1, 2 of GroupNorm(x).

    One head over all H W positions (Vaswani et al., 2017, eq. 1; Ho et al., 2020, appendix B);
    with `skip_rescale` the sum is divided by sqrt 2. The softmax is taken in float32.
    x: (B, H, W, C).
    """

    skip_rescale: bool
    init_scale: float
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        b, height, width, c = x.shape
        h = group_norm(c, dtype=self.dtype)(x).reshape(b, height * width, c)
        q, k, v = (NIN(c, dtype=self.dtype)(h) for _ in range(3))
        logits = jnp.einsum("bqc,bkc->bqk", q, k, preferred_element_type=jnp.float32)
        weights = jax.nn.softmax(logits / math.sqrt(c), axis=-1).astype(self.dtype)
        h = jnp.einsum("bqk,bkc->bqc", weights, v)
        h = NIN(c, self.init_scale, dtype=self.dtype)(h).reshape(x.shape)
        return (x + h) / math.sqrt(2) if self.skip_rescale else x + h
