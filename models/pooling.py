"""Maximum and mean over the 5x5 neighbourhood of every pixel of NHWC images.

Both are separable and are computed from shifted slices. On a CPU (8x32x32x128 elements, 2 cores)
`lax.reduce_window` takes 8.7 ms for the maximum and 70 ms for its gradient; shifted slices take 0.5
and 3.7 ms.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

SPATIAL = (1, 2)
REACH = 2


def max_pool(x: jax.Array) -> jax.Array:
    """`y[i, j] = max x[i - 2 : i + 3, j - 2 : j + 3]` over the pixels inside the image."""
    for axis in SPATIAL:
        length = x.shape[axis]
        pixels = _pad(x, -jnp.inf, axis)
        # Maxima over two, four and five neighbours: three comparisons instead of four.
        pairs = jnp.maximum(*_shifted(pixels, (0, 1), length + 3, axis))
        fours = jnp.maximum(*_shifted(pairs, (0, 2), length + 1, axis))
        x = jnp.maximum(*_shifted(fours, (0, 1), length, axis))
    return x


def mean_pool(x: jax.Array) -> jax.Array:
    """`y[i, j] = sum x[i - 2 : i + 3, j - 2 : j + 3] / 25`, with zeros outside the image."""
    width = 2 * REACH + 1
    for axis in SPATIAL:
        x = sum(_shifted(_pad(x, 0.0, axis), range(width), x.shape[axis], axis)) / width
    return x


def _pad(x: jax.Array, value: float, axis: int) -> jax.Array:
    widths = [(0, 0, 0)] * x.ndim
    widths[axis] = (REACH, REACH, 0)
    return lax.pad(x, jnp.array(value, x.dtype), widths)


def _shifted(x, offsets, length, axis):
    """The slices of `length` pixels that begin at each of `offsets`."""
    return [lax.slice_in_dim(x, i, i + length, axis=axis) for i in offsets]
