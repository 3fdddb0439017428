"""A distance of two images that looks at edges, without a network.

At each scale the local contrast is `|grad| = sqrt(dx^2 + dy^2)` on the cells between four pixels,
averaged over every window of 4 x 4. The distance is the mean of its absolute difference over scales
halved by 2 x 2 means while they have two pixels a side, and of that of the coarsest images.

So fine texture that sits elsewhere costs little, and its loss costs much; a squared error has it
the other way round, and asks for blur. It stands in for LPIPS (Zhang et al. 2018) where no network
is at hand, and knows nothing of what an image shows.
"""

import jax
import jax.numpy as jnp
from jax import Array

from sde_lib import rows


def edge_distance(x: Array, y: Array) -> Array:
    """The mean over scales and windows, `(B,)`, in the units of the images `(B, H, W, C)`.

    Zero for equal images and symmetric, but not a metric: other images may have the same contrast.

    Raises:
        ValueError: for shapes that differ, are not NHWC, or have a side below 2.
    """
    if x.shape != y.shape or x.ndim != 4 or min(x.shape[1:3]) < 2:
        raise ValueError(
            f"The images have the shapes {x.shape} and {y.shape}; the distance takes two batches "
            "(B, H, W, C) of one shape and sides of 2 pixels or more."
        )
    total, scales = 0.0, 0
    while large(x):
        total = total + mean_of_each(jnp.abs(contrast(x) - contrast(y)))
        x, y, scales = halved(x), halved(y), scales + 1
    return (total + mean_of_each(jnp.abs(x - y))) / (scales + 1)


def contrast(x: Array) -> Array:
    """`|grad x|` on `(B, H - 1, W - 1, C)`, then means over every window of 4 x 4, or of what there
    is. Windows overlap: side by side they would leave out the last rows, 3 of 7 on 8 pixels."""
    across = 0.5 * (x[:, :-1, 1:] - x[:, :-1, :-1] + x[:, 1:, 1:] - x[:, 1:, :-1])
    down = 0.5 * (x[:, 1:, :-1] - x[:, :-1, :-1] + x[:, 1:, 1:] - x[:, :-1, 1:])
    size = jnp.sqrt(across**2 + down**2)
    for axis in (1, 2):
        length = size.shape[axis]
        width = min(4, length)
        parts = [
            jax.lax.slice_in_dim(size, i, length - width + 1 + i, axis=axis) for i in range(width)
        ]
        size = sum(parts) / width
    return size


def large(x: Array) -> bool:
    return min(x.shape[1:3]) >= 2


def halved(x: Array) -> Array:
    """Means over 2 x 2 pixels; an odd last row or column is left out."""
    batch, height, width, channels = x.shape
    x = x[:, : height // 2 * 2, : width // 2 * 2]
    return jnp.mean(x.reshape(batch, height // 2, 2, width // 2, 2, channels), axis=(2, 4))


def mean_of_each(x: Array) -> Array:
    return jnp.mean(rows(x), axis=1)
