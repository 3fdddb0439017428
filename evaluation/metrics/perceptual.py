"""A distance of two images by their edges, without a network.

At each scale the local contrast is `|grad| = sqrt(dx^2 + dy^2)` on the cells between four pixels,
averaged over every window of 4 x 4. The next scale is made of 2 x 2 means, as long as images have
two pixels a side. The distance is the mean over scales of the absolute difference in contrast, with
the absolute difference of the coarsest images as one further scale.

Fine texture in another place therefore costs little, and lost texture costs much. A squared error
does the opposite, and favours blur. The distance replaces LPIPS (Zhang et al. 2018) where no
network is available; it does not see what an image shows.
"""

import jax
import jax.numpy as jnp
from jax import Array

from sde_lib import rows


def edge_distance(x: Array, y: Array) -> Array:
    """Mean over scales and windows, `(B,)`, in the units of the images `(B, H, W, C)`.

    It is symmetric and zero for equal images, but no metric: different images may have the same
    contrast.

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
    """Means of `|grad x|`, `(B, H - 1, W - 1, C)`, over every window of 4 x 4.

    A shorter axis is averaged whole. Windows overlap: side by side they would leave out the last
    rows, 3 of 7 for images of 8 pixels.
    """
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
