"""Noise levels as a random variable: a grid of them, and which one a noisy state came from.

Kim & Ye 2023 (Denoising MCMC, arXiv 2209.14593): data and noise level have a joint law
`p(y, sigma) = p(sigma) p_sigma(y)` with `y = x0 + sigma z` and levels even in log sigma, all
equally likely. For any affine law `y = x / a` and `sigma = c / a`.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from sde_lib import AffinePath

# y `(B, ...)` to log p(level | y) `(B, K)`, up to a constant for each example.
LevelLogitsFn = Callable[[Array], Array]

UPDATES = ("gibbs", "argmax")


class Levels(NamedTuple):
    """`sigma` `(K,)`, falling, so that level 0 is the noisiest, and the law's times `t` `(K,)`."""

    sigma: Array
    t: Array


def make_levels(
    path: AffinePath, count: int, sigma_min: float | None = None, sigma_max: float | None = None
) -> Levels:
    """`count` levels even in log sigma, both ends included; by default the law's own range.

    Raises:
        ValueError: for fewer than two levels, or a range that is empty or beyond the law's.
    """
    # Numbers, under `jit` too, as they are checked.
    with jax.ensure_compile_time_eval():
        low, high = (float(path.sigma(jnp.asarray(t))) for t in (path.t0, path.t1))
    sigma_min = low if sigma_min is None else sigma_min
    sigma_max = high if sigma_max is None else sigma_max
    if count < 2:
        raise ValueError(f"The number of noise levels is {count}; take at least 2.")
    slack = 1.0 + 1e-5  # a sigma read off the law means its end, whatever the last digits
    if not low / slack <= sigma_min < sigma_max <= high * slack:
        raise ValueError(
            f"The noise levels run from {sigma_min} to {sigma_max}; take them rising and within "
            f"[{low:.6g}, {high:.6g}], the noise c / a of the law from t0 to t1."
        )
    sigma = jnp.exp(jnp.linspace(jnp.log(sigma_max), jnp.log(sigma_min), count))
    return Levels(sigma, jnp.clip(path.t_of_sigma(sigma), path.t0, path.t1))


def mixture_logits(levels: Levels, points: Array, std: float = 0.0) -> LevelLogitsFn:
    """The exact posterior of the level for data known to be `points`, each with N(0, std^2 I).

    `log p_sigma(y) = logsumexp_i(-|y - x_i|^2 / 2v) - D / 2 log v` and a constant, with
    `v = sigma^2 + std^2`. `points` is `(N, ...)`, of the shape of y. One pass over the `(B, N)`
    squared distances for each level, one level at a time in memory.
    """
    flat = jnp.asarray(points).reshape(len(points), -1)

    def logits(y: Array) -> Array:
        rows = y.reshape(y.shape[0], -1)
        # Not |y|^2 - 2 y x + |x|^2, whose digits are lost where y is near a point. A chunk a row.
        squares = jax.lax.map(lambda row: jnp.sum((row[None] - flat) ** 2, axis=-1), rows)

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
