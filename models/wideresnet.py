"""A wide residual network that classifies noisy images (Zagoruyko and Komodakis 2016; with noise
conditioning as in Song et al. 2021, appendix I.1).

WRN-d-k has three groups of `(d - 4) / 6` blocks with 16 k, 32 k and 64 k channels; the second and
the third group begin with a stride of 2. The network uses GroupNorm and not batch normalisation,
since the noise levels in a batch differ. Each block adds a linear function of the embedding of the
noise level.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from models.embeddings import GaussianFourierProjection
from models.layers import conv3x3, dense, group_norm
from models.options import ACTIVATIONS, activation, check_choice, check_dropout, check_sizes
from models.pixels import Conv, fence

GROUPS = (16, 32, 64)


class WideBlock(nn.Module):
    """`shortcut(x) + conv2(drop(act(norm(conv1(act(norm(x))) + W act(e)))))`.

    x: (B, H, W, C); e, the embedding: (B, E). Returns (B, H / stride, W / stride, features).
    """

    features: int
    stride: int
    nonlinearity: str
    dropout: float
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, embedding: jax.Array, train: bool) -> jax.Array:
        act, norm = (
            activation(self.nonlinearity),
            lambda h: group_norm(h.shape[-1], dtype=self.dtype)(h),
        )
        ahead = act(norm(x))
        h = conv3x3(self.features, stride=self.stride, dtype=self.dtype)(ahead)
        h = h + dense(self.features, dtype=self.dtype)(act(embedding))[:, None, None]
        h = nn.Dropout(self.dropout)(act(norm(h)), deterministic=not train)
        h = conv3x3(self.features, dtype=self.dtype)(h)
        if x.shape != h.shape:
            # Where channels or size change, the shortcut projects the normalised features.
            x = Conv(self.features, (1, 1), (self.stride, self.stride), dtype=self.dtype)(ahead)
        return x + h


class WideResNet(nn.Module):
    """Logits of the classes of noisy images, float32 (B, num_classes).

    x: (B, H, W, C) of unit size; cond: (B,), the noise level sigma > 0.

    Fields:
      num_classes: number of classes.
      depth: d, at least 10 and 4 more than a multiple of 6.
      widen: k.
      embedding_size, fourier_scale: number and standard deviation of the random frequencies for
        log sigma.
      nonlinearity: 'elu', 'relu', 'lrelu' or 'swish'.
      dropout: rate in each block; active only with `train=True` (rng 'dropout').
      dtype: of the computation; parameters, norms' statistics and logits are float32.
    """

    num_classes: int = 10
    depth: int = 28
    widen: int = 10
    embedding_size: int = 128
    fourier_scale: float = 16.0
    nonlinearity: str = "swish"
    dropout: float = 0.0
    dtype: Any = jnp.float32

    def check(self, shape: tuple[int, ...]) -> None:
        """Raise ValueError for a wrong option, or for a `shape` that is not (..., H, W, C)."""
        check_sizes(depth=self.depth, widen=self.widen, embedding_size=self.embedding_size)
        check_dropout(self.dropout)
        check_choice("nonlinearity", self.nonlinearity, ACTIVATIONS)
        if self.depth < 10 or (self.depth - 4) % 6:
            raise ValueError(
                f"depth is {self.depth}; a wide residual network has 4 layers more than a multiple "
                "of 6: 10, 16, 22, 28, ..."
            )
        if len(shape) < 3:
            raise ValueError(
                f"The examples have the shape {tuple(shape)}; the network 'wideresnet' takes "
                "images (H, W, C): take 'mlp_classifier' for other data."
            )

    @nn.compact
    def __call__(self, x: jax.Array, cond: jax.Array, train: bool = False) -> jax.Array:
        self.check(x.shape)
        act = activation(self.nonlinearity)
        features = GaussianFourierProjection(self.embedding_size, self.fourier_scale)
        embedding = features(jnp.log(cond.astype(jnp.float32)))
        embedding = dense(4 * self.embedding_size, dtype=self.dtype)(embedding)
        embedding = dense(4 * self.embedding_size, dtype=self.dtype)(act(embedding))
        h = conv3x3(GROUPS[0], dtype=self.dtype)(x.astype(self.dtype))
        for group, width in enumerate(GROUPS):
            for i in range((self.depth - 4) // 6):
                stride = 2 if group and not i else 1
                fields = (self.nonlinearity, self.dropout, self.dtype)
                block = WideBlock(width * self.widen, stride, *fields)
                h = fence(block(h, embedding, train))
        h = act(group_norm(h.shape[-1], dtype=self.dtype)(h))
        h = jnp.mean(h.astype(jnp.float32), axis=(1, 2))
        return nn.Dense(self.num_classes, name="head")(h)
