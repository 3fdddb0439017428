"""The discrete Hartley transform: the Fourier basis of real images, in real numbers.

    H x (k) = sum_n x(n) (cos + sin)(2 pi k n / N) / sqrt(N) = Re F x - Im F x

(Bracewell 1983). H is symmetric, orthogonal and its own inverse, and a basis function has only the
frequencies k and -k. H therefore diagonalises every map of images that multiplies F x by a real,
even function of k.
"""

import jax.numpy as jnp
from jax import Array

AXES = (1, 2)


def hartley(x: Array) -> Array:
    """The transform over the two axes of pixels of `(B, H, W, C)`; it is its own inverse."""
    F = jnp.fft.fft2(x, axes=AXES, norm="ortho")
    return F.real - F.imag


def analysis(shape: tuple[int, int, int]):
    """`vt`: images to coefficients `(B, H W C)`."""
    size = shape[0] * shape[1] * shape[2]
    return lambda x: hartley(x).reshape(x.shape[0], size)


def synthesis(shape: tuple[int, int, int]):
    """`v`: coefficients `(B, H W C)` to images."""
    return lambda z: hartley(z.reshape(z.shape[0], *shape))
