"""How a classifier of noise levels is trained: cross-entropy of the level that made the noise.

Kim & Ye 2023 (Denoising MCMC, arXiv 2209.14593):

    loss = E_k E_x0 E_z  -log q(k | x0 + sigma_k z),    k uniform on the grid

The minimiser is the posterior p(k | y) of the law in which all levels are equally likely.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array

from losses.denoising import LossFn, NetworkFn
from losses.needs import needs
from sde_lib import AffinePath, expand
from sde_lib.levels import Levels, make_levels


@needs(trains="noise_levels")
def noise_level_loss(
    path: AffinePath,
    network: NetworkFn,
    levels: int,
    *,
    eps: float = 1e-3,
    sigma_min: float = 0.0,
    sigma_max: float = 0.0,
) -> LossFn:
    """Cross-entropy of the level of the noise, in nats.

    Returns `(params, others, key, batch) -> (scalar, metrics)`.

    Args:
        path: the law; its noise level is `sigma = c / a`, in the units of the data.
        network: `(params, y, None, dropout_key) -> logits (B, levels)`, in training mode.
        levels: the number of levels; level 0 is the noisiest.
        eps: the time of the least level, at which sampling ends.
        sigma_min: the least level, in place of that of `eps`; 0 leaves the level of `eps`.
        sigma_max: the largest level; 0 for that of the law at t1.

    `batch["x0"]` holds scaled data `(B, ...)`. The metrics are the loss and the times `t` (B,).

    Raises:
        ValueError: for levels beyond the law's, as `make_levels`.
    """
    grid = levels_of(path, levels, eps, sigma_min, sigma_max)

    def loss(params, others, key: Array, batch: dict[str, Array]):
        del others
        level_key, noise_key, dropout_key = jax.random.split(key, 3)
        x0 = batch["x0"]
        level = jax.random.randint(level_key, x0.shape[:1], 0, levels)
        logits = lambda y: network(params, y, None, dropout_key)
        value = jnp.mean(level_nats(grid, logits, x0, level, path.noise(noise_key, x0)))
        return value, {"loss": value, "t": grid.t[level]}

    return loss


def levels_of(
    path: AffinePath, levels: int, eps: float, sigma_min: float = 0.0, sigma_max: float = 0.0
) -> Levels:
    """The grid of levels for the options of `noise_level_loss`."""
    with jax.ensure_compile_time_eval():
        least = sigma_min or float(path.sigma(jnp.asarray(eps)))
    return make_levels(path, levels, least, sigma_max or None)


def level_nats(
    levels: Levels, logits: Callable[[Array], Any], x0: Array, level: Array, z: Array
) -> Array:
    """`-log q(level | x0 + sigma z)`, `(B,)`, for noise z like the data."""
    y = x0 + expand(levels.sigma[level], x0).astype(x0.dtype) * z
    return optax.softmax_cross_entropy_with_integer_labels(logits(y), level)
