"""Magnetic resonance: some of the Fourier coefficients of a real image.

The coefficients at k and -k of a real image are conjugate, so a measurement of both is one
coefficient measured twice. With M the mask, `A^T A = F^H diag(M(k) + M(-k)) F / 2`, with a real and
even factor. Singular values are therefore 1, sqrt(1/2) or 0, and V is the Hartley basis. All
coefficients together measure each of the N numbers of an image once.

Each channel is a real image. For a complex image in two channels there is `complex_fourier`.
"""

import jax.numpy as jnp
import numpy as np

from operators.base import LinearOperator, check_grid, svd_of_right
from operators.hartley import AXES, analysis, synthesis
from operators.mask import broadcast_mask
from sde_lib.ranges import positive


def fourier(
    shape: tuple[int, int, int], keep: np.ndarray | None = None, lines: int = 4
) -> LinearOperator:
    """The n kept coefficients of the unitary transform, `(B, n, C, 2)`, real and imaginary part.

    Args:
        shape: `(H, W, C)` of a real image.
        keep: ones and zeros `(H, W)`, or `(W,)` for whole lines, in the order of `numpy.fft`: the
            mean of the image first, then rising frequencies, then the negative ones.
        lines: if keep is not given, the number of random lines, half of them the lowest; the lines
            are always the same.

    Raises:
        ValueError: for a shape that is not (H, W, C), or a mask as in `mask`.
    """
    check_grid("fourier", shape)
    height, width, channels = shape
    keep = measured_points("fourier", height, width, keep, lines)
    kept = np.flatnonzero(keep)

    def forward(x):
        F = jnp.fft.fft2(x, axes=AXES, norm="ortho")
        F = F.reshape(x.shape[0], height * width, channels)[:, kept]
        return jnp.stack([F.real, F.imag], axis=-1)

    def adjoint(y):
        F = y[..., 0] + 1j * y[..., 1]
        full = jnp.zeros((y.shape[0], height * width, channels), F.dtype).at[:, kept].set(F)
        full = full.reshape(y.shape[0], *shape)
        return jnp.fft.ifft2(full, axes=AXES, norm="ortho").real

    opposite = np.roll(keep[::-1, ::-1], (1, 1), axis=(0, 1))
    s = np.sqrt(0.5 * (keep.astype(float) + opposite))[..., None]
    s = np.broadcast_to(s, shape).reshape(-1)
    svd = svd_of_right(forward, adjoint, s, analysis(shape), synthesis(shape))
    out = (len(kept), channels, 2)
    return LinearOperator("fourier", tuple(shape), out, forward, adjoint, svd)


def measured_points(
    name: str, height: int, width: int, keep: np.ndarray | None, lines: int
) -> np.ndarray:
    """The mask `(H, W)` as booleans, from points, from whole lines, or from a number of lines."""
    if keep is None:
        positive(lines=lines)
        keep = random_lines(width, lines, (lines + 1) // 2, np.random.default_rng(0))
    keep = np.asarray(keep)
    if keep.shape == (width,):
        keep = np.broadcast_to(keep, (height, width))
    return broadcast_mask(name, (height, width), keep)


def random_lines(width: int, lines: int, centre: int, rng: np.random.Generator) -> np.ndarray:
    """A Cartesian mask `(width,)`: the `centre` lowest frequencies, and others at random.

    Raises:
        ValueError: unless `0 <= centre <= lines <= width` and `lines` is at least 1.
    """
    if not 0 <= centre <= lines <= width or lines < 1:
        raise ValueError(
            f"{lines} lines of {width} with {centre} at the centre; take 0 <= centre <= lines <= "
            "width, and at least 1 line."
        )
    order = np.argsort(np.abs(np.fft.fftfreq(width)), kind="stable")
    chosen = rng.choice(order[centre:], lines - centre, replace=False)
    keep = np.zeros(width, int)
    keep[np.concatenate([order[:centre], chosen]).astype(int)] = 1
    return keep
