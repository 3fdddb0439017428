"""From nats of a density on scaled data to bits per dimension of the discrete data.

A level u in 0..L-1 is dequantised and scaled to `y = S((u + U) / L)`, U uniform on [0, 1). Then
(Theis, van den Oord, Bethge 2016)

    log P(u) >= E_U log p(y) + D log_volume,    log_volume = log |d y / d u|

and bits/dim is minus that over `D log 2`. The offset `-log_volume / log 2` is 7 for 256 levels
scaled to [-1, 1], 8 for [0, 1], and `log2(17)` for 17 levels in [0, 1]. The scaler computes it.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array


class Weighted(NamedTuple):
    """A bound of several draws and its standard error, each `(B,)`, in nats."""

    logp: Array
    stderr: Array


def bits_per_dim(logp: Array, dims: int, log_volume: float) -> Array:
    """Bits per dimension from `logp` in nats, summed over `dims` dimensions.

    Args:
        log_volume: nats per dimension, from the scaler's `log_volume()`, which refuses data that
            are continuous or not dequantised.
    """
    return -(logp / dims + log_volume) / math.log(2.0)


def importance_weighted(logp: Array) -> Weighted:
    """The bound of k draws, `log (1/k sum_j exp logp_j)`, for `logp` `(k, B)` in nats.

    Each draw is the logarithm of an unbiased estimate of a probability or density p: `log q(u + U)`
    of dequantised levels, or a draw of `decoder.py`. The expectation rises with k from the plain
    bound, k = 1, to log p (Burda, Grosse, Salakhutdinov 2016, https://arxiv.org/abs/1509.00519,
    theorem 1). A noisy `logp`, such as one by Hutchinson's probes, is unbiased for log p and not
    for p. For k > 1 the bound is then too high, by up to half the variance of that noise.

    Returns:
        The bound, and its standard error by the delta method, `std(w) / (sqrt(k) mean(w))` with
        `w = exp logp`: nan for k = 1. One draw that is nan makes its example nan.
    """
    draws = logp.shape[0]
    total = jax.nn.logsumexp(logp, axis=0)
    # The weights are shares of their sum, so nothing overflows, and their mean is 1 / k.
    share = jnp.exp(logp - total)
    ddof = 1 if draws > 1 else 0
    spread = jnp.std(share, axis=0, ddof=ddof) * draws**0.5
    return Weighted(total - math.log(draws), spread if draws > 1 else jnp.full_like(total, jnp.nan))
