"""How a classifier of noise levels is trained: cross-entropy of the level that made the noise.

Kim & Ye 2023 (Denoising MCMC, arXiv 2209.14593):

    loss = E_k E_x0 E_z  -log q(k | x0 + sigma_k z),    k uniform on the grid

whose minimiser is the posterior p(k | y) of the law in which all levels are equally likely.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array

from sde_lib import AffinePath, expand

# `(params, y, dropout_key) -> logits (B, K)`, in training mode.
ClassifierFn = Callable[[Any, Array, Array], Array]


def noise_level_loss(path: AffinePath, ts: Array, network: ClassifierFn) -> Callable:
    """Builds the loss `(params, others, key, batch) -> (scalar, metrics)`, in nats.

    Args:
        path: the law, whose noise is `sigma = c / a` where data are kept at their size.
        ts: times of the levels, `(K,)`, level 0 first.

    `batch["image"]` holds scaled data `(B, ...)`. The metrics are the loss and the times `t` (B,).
    """
    sigmas = path.sigma(ts)

    def loss(params, others, key: Array, batch: dict[str, Array]):
        del others
        level_key, noise_key, dropout_key = jax.random.split(key, 3)
        x0 = batch["image"]
        level = jax.random.randint(level_key, x0.shape[:1], 0, len(ts))
        y = x0 + expand(sigmas[level], x0).astype(x0.dtype) * path.noise(noise_key, x0)
        logits = network(params, y, dropout_key)
        value = jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, level))
        return value, {"loss": value, "t": ts[level]}

    return loss
