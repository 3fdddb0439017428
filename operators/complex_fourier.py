"""Magnetic resonance of complex images: some of the Fourier coefficients, each one complex number.

Pairs of channels of the real array are the real and the imaginary part of one complex image (or
coil). The transform of a complex image has no symmetry, so the coefficients at k and -k are
independent, and each holds two real numbers with independent noise, as in a scan. The rows of A are
orthonormal, so all singular values are 1, and the posterior counts 2 numbers for each measured
point. `fourier` would transform the two channels as two real images, and count 4 numbers a point.
"""

import jax.numpy as jnp
import numpy as np

from operators.base import SVD, LinearOperator, check_grid
from operators.fourier import measured_points
from operators.hartley import AXES


def complex_fourier(
    shape: tuple[int, int, int], keep: np.ndarray | None = None, lines: int = 4
) -> LinearOperator:
    """The n kept coefficients of the unitary transform, `(B, n, C / 2, 2)`: real, imaginary part.

    Args:
        shape: `(H, W, C)` of an array of real numbers, whose channels 2 j and 2 j + 1 are the real
            and the imaginary part of complex image j.
        keep: ones and zeros `(H, W)`, or `(W,)` for whole lines, in the order of `numpy.fft`: the
            mean of the image first, then rising frequencies, then the negative ones.
        lines: if keep is not given, the number of random lines, half of them the lowest; the lines
            are always the same.

    The standard deviation of the noise is that of the real part and that of the imaginary part.

    Raises:
        ValueError: for a shape that is not (H, W, C), an odd number of channels, or a mask as in
            `mask`.
    """
    check_grid("complex_fourier", shape)
    height, width, channels = shape
    if channels % 2:
        raise ValueError(
            f"complex_fourier has {channels} channels, and a complex image is two, real and "
            "imaginary part; give an even number, or take 'fourier' for real images."
        )
    keep = measured_points("complex_fourier", height, width, keep, lines)
    kept, images = np.flatnonzero(keep), channels // 2

    def forward(x):
        parts = x.reshape(x.shape[0], height, width, images, 2)
        F = jnp.fft.fft2(parts[..., 0] + 1j * parts[..., 1], axes=AXES, norm="ortho")
        F = F.reshape(x.shape[0], height * width, images)[:, kept]
        return jnp.stack([F.real, F.imag], axis=-1)

    def adjoint(y):
        F = y[..., 0] + 1j * y[..., 1]
        full = jnp.zeros((y.shape[0], height * width, images), F.dtype).at[:, kept].set(F)
        full = full.reshape(y.shape[0], height, width, images)
        image = jnp.fft.ifft2(full, axes=AXES, norm="ortho")
        return jnp.stack([image.real, image.imag], axis=-1).reshape(y.shape[0], *shape)

    out = (len(kept), images, 2)
    flat = lambda y: y.reshape(y.shape[0], 2 * len(kept) * images)
    unflat = lambda z: z.reshape(z.shape[0], *out)
    svd = SVD(
        np.ones(2 * len(kept) * images),
        lambda x: flat(forward(x)),
        lambda z: adjoint(unflat(z)),
        flat,
        unflat,
    )
    return LinearOperator("complex_fourier", tuple(shape), out, forward, adjoint, svd)
