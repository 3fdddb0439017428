"""The noise level as a random variable: its posterior on a grid of levels, given a noisy state.

Kim & Ye 2023 (Denoising MCMC, arXiv 2209.14593): data and noise level have a joint law
`p(y, sigma) = p(sigma) p_sigma(y)` with `y = x0 + sigma z`. The levels are even in log sigma and
equally likely. For any affine law `y = x / a` and `sigma = c / a`.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from sde_lib import rows
from sde_lib.levels import Levels, make_levels

# Maps y `(B, ...)` to log p(level | y) `(B, K)`, up to a constant for each example.
LevelLogitsFn = Callable[[Array], Array]

UPDATES = ("gibbs", "argmax")

__all__ = ["UPDATES", "LevelLogitsFn", "Levels", "draw_level", "make_levels", "mixture_logits"]


def mixture_logits(levels: Levels, points: Array, std: float = 0.0) -> LevelLogitsFn:
    """The exact posterior of the level for data known to be `points`, each with N(0, std^2 I).

    `log p_sigma(y) = logsumexp_i(-|y - x_i|^2 / 2v) - D / 2 log v` plus a constant, with
    `v = sigma^2 + std^2`. `points` is `(N, ...)`, each of the shape of one y. The `(B, N)` squared
    distances are computed once; the levels are processed one at a time to save memory.
    """
    flat = rows(jnp.asarray(points))

    def logits(y: Array) -> Array:
        # Subtract first: |y|^2 - 2 y x + |x|^2 loses all digits if y is near a point. One row of y
        # at a time bounds the memory.
        squares = jax.lax.map(lambda row: jnp.sum((row[None] - flat) ** 2, axis=-1), rows(y))

        def log_density(sigma):
            v = sigma**2 + std**2
            spread = jax.nn.logsumexp(-0.5 * squares / v, axis=-1)
            return spread - 0.5 * flat.shape[1] * jnp.log(v)

        return jax.lax.map(log_density, levels.sigma.astype(y.dtype)).T

    return logits


def draw_level(key: Array, logits: Array, update: str) -> Array:
    """A level `(B,)` from logits `(B, K)`: drawn ("gibbs"), or the likeliest ("argmax").

    `key` is one key, or one per example; "argmax" does not use it.
    """
    if update == "argmax":
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)
    draw = jax.random.categorical if key.ndim == 0 else jax.vmap(jax.random.categorical)
    return draw(key, logits).astype(jnp.int32)
