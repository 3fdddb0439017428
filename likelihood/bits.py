"""From nats of a density on scaled data to bits per dimension of the discrete data.

A level u in 0..L-1 is dequantised and scaled to `y = S((u + U) / L)`, U uniform on [0, 1). Then
(Theis, van den Oord, Bethge 2016)

    log P(u) >= E_U log p(y) + D log_volume,    log_volume = log |d y / d u|

and bits/dim is minus that over `D log 2`. The offset `-log_volume / log 2` is 7 for 256 levels
scaled to [-1, 1], 8 for [0, 1], `log2(17)` for 17 levels in [0, 1]; it is taken from the scaler,
never typed in.
"""

import math

from jax import Array


def bits_per_dim(logp: Array, dims: int, log_volume: float) -> Array:
    """Bits per dimension from `logp` in nats, summed over `dims` dimensions.

    Args:
        log_volume: nats per dimension, from the scaler's `log_volume()`, which refuses data that
            are continuous or not dequantised.
    """
    return -(logp / dims + log_volume) / math.log(2.0)
