"""Super-resolution: the means over blocks of pixels."""

import jax.numpy as jnp
import numpy as np

from operators.base import SVD, LinearOperator, check_grid


def downsample(shape: tuple[int, int, int], factor: int = 2) -> LinearOperator:
    """Average pooling, `(B, H, W, C) -> (B, H / factor, W / factor, C)`.

    Args:
        factor: the side in pixels of the blocks whose means are measured.

    Rows do not overlap, so `A A^T = I / factor^2`: all singular values are `1 / factor`, V is
    `factor A^T` and U is the identity.

    Raises:
        ValueError: for a shape that is not (H, W, C), a factor below 1, or one that does not divide
            both sides.
    """
    check_grid("downsample", shape)
    height, width, channels = shape
    if factor < 1 or height % factor or width % factor:
        raise ValueError(
            f"downsample has the factor {factor} for {height} x {width} pixels; it must be at "
            "least 1 and divide both."
        )
    out = (height // factor, width // factor, channels)
    size = int(np.prod(out))

    def forward(x):
        blocks = x.reshape(x.shape[0], out[0], factor, out[1], factor, channels)
        return jnp.mean(blocks, axis=(2, 4))

    def adjoint(y):
        blocks = (y.shape[0], out[0], factor, out[1], factor, channels)
        spread = jnp.broadcast_to(y[:, :, None, :, None], blocks) / factor**2
        return spread.reshape(y.shape[0], *shape)

    flat, image = lambda y: y.reshape(y.shape[0], size), lambda z: z.reshape(z.shape[0], *out)
    svd = SVD(
        s=np.full(size, 1.0 / factor),
        vt=lambda x: factor * flat(forward(x)),
        v=lambda z: factor * adjoint(image(z)),
        ut=flat,
        u=image,
    )
    return LinearOperator("downsample", tuple(shape), out, forward, adjoint, svd)
