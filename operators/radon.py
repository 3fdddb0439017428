"""Computed tomography of small images: integrals along parallel rays at several angles.

Pixels are unit squares of constant value, centred on the origin. The first axis of the image is y
and the second x. The ray at angle theta and offset p is `(x, y) = p (cos, sin) + u (-sin, cos)`.
Its integral is the sum over pixels of the value times the exact length of the ray in the pixel
(Siddon 1985), so the only approximation is that of the image by pixels.
"""

import numpy as np

from operators.base import LinearOperator, check_grid
from operators.matrix import matrix

# Limit of the size of the matrix and of NumPy's decomposition.
MOST_PIXELS = 4096
# A component of a ray's direction below this counts as zero: the ray is parallel to pixel sides.
ALONG = 1e-12


def radon(
    shape: tuple[int, int, int],
    angles: int | np.ndarray = 8,
    detectors: int | None = None,
    svd: bool = True,
) -> LinearOperator:
    """Projections of a grey image, `(B, H, W, 1) -> (B, angles, detectors)`, in pixel lengths.

    Args:
        angles: in radians; a number n means n of them, even over [0, pi).
        detectors: rays of each angle, one pixel apart and centred; by default enough to cover the
            image's diagonal, of the parity of W.
        svd: also decompose the matrix, which takes a minute for the largest images.

    Raises:
        ValueError: for a shape that is not (H, W, 1), more than 4096 pixels, or no rays that meet
            the image.
    """
    check_grid("radon", shape)
    height, width, channels = shape
    if channels != 1 or height * width > MOST_PIXELS:
        raise ValueError(
            f"radon has images of shape {tuple(shape)}; its matrix is for one channel and at most "
            f"{MOST_PIXELS} pixels."
        )
    if detectors is None:
        detectors = width + 2 * int(np.ceil((np.hypot(height, width) - width) / 2))
    given = np.pi * np.arange(angles) / angles if np.ndim(angles) == 0 and angles > 0 else angles
    theta = np.atleast_1d(np.asarray(given, np.float64))
    if theta.ndim != 1 or theta.size < 1 or np.ndim(given) == 0 or detectors < 1:
        raise ValueError(
            f"radon has angles {angles} and {detectors} detectors; take at least 1 of each."
        )
    offsets = np.arange(detectors) - (detectors - 1) / 2
    lengths = np.concatenate([lengths_of(height, width, angle, offsets) for angle in theta])
    return matrix(shape, lengths, (len(theta), detectors), svd, "radon")


def lengths_of(height: int, width: int, angle: float, offsets: np.ndarray) -> np.ndarray:
    """Length of each ray in each pixel, `(rays, H W)`."""
    cos, sin = np.cos(angle), np.sin(angle)
    crossings = []
    if abs(sin) > ALONG:
        sides = np.arange(width + 1) - width / 2
        crossings.append((offsets[:, None] * cos - sides) / sin)
    if abs(cos) > ALONG:
        sides = np.arange(height + 1) - height / 2
        crossings.append((sides - offsets[:, None] * sin) / cos)
    # Between neighbouring crossings a ray lies in one pixel, that of the middle point.
    u = np.sort(np.concatenate(crossings, axis=1), axis=1)
    middle, length = 0.5 * (u[:, 1:] + u[:, :-1]), np.diff(u, axis=1)
    column = np.floor(offsets[:, None] * cos - middle * sin + width / 2).astype(int)
    row = np.floor(offsets[:, None] * sin + middle * cos + height / 2).astype(int)
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    ray = np.broadcast_to(np.arange(len(offsets))[:, None], inside.shape)
    lengths = np.zeros((len(offsets), height * width))
    np.add.at(lengths, (ray[inside], (row * width + column)[inside]), length[inside])
    return lengths
