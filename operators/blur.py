"""Deblurring: convolution with a known kernel, the same for all channels.

With the circular boundary the image is a torus and the Fourier transform diagonalises A,

    A = F^H diag(h) F = P |A|,    |A| = F^H diag(|h|) F,    P = F^H diag(h / |h|) F,

so that `s = |h|`, V is the Hartley basis and `U = P V`, all of them real. With the other
boundaries, pixels are added around the image before the convolution, by reflection at its edge or
as zeros.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from operators.base import SVD, LinearOperator, check_grid, transpose_of
from operators.hartley import AXES, analysis, synthesis
from sde_lib.ranges import positive

# `jnp.pad` modes; the circular one needs no padding.
BOUNDARIES = {"circular": None, "reflect": "symmetric", "zero": "constant"}
# A Fourier coefficient below this share of the largest has a phase that is only rounding.
NO_PHASE = 1e-12


def blur(
    shape: tuple[int, int, int],
    kernel: float | np.ndarray | None = None,
    boundary: str = "circular",
    std: float = 1.0,
) -> LinearOperator:
    """`y = kernel * x0`, `(B, H, W, C)` to the same.

    Args:
        kernel: weights `(h, w)` with odd sides, which are not rescaled; or the standard deviation
            of a Gaussian in pixels (`gaussian_kernel`).
        boundary: "circular", "reflect" or "zero"; the circular one has an SVD.
        std: of a Gaussian kernel in pixels, where no kernel is given.

    Raises:
        ValueError: for a shape that is not (H, W, C), an unknown boundary, or a kernel that has an
            even side, is larger than the image, is zero or is not finite.
    """
    check_grid("blur", shape)
    if boundary not in BOUNDARIES:
        raise ValueError(f"boundary is {boundary!r}; it must be one of {', '.join(BOUNDARIES)}.")
    positive(std=std)
    kernel = std if kernel is None else kernel
    if np.ndim(kernel) == 0:
        kernel = gaussian_kernel(float(kernel), min(shape[0], shape[1]))
    kernel = np.asarray(kernel, np.float64)
    check_kernel(kernel, shape)
    name = f"blur ({boundary})"
    if boundary == "circular":
        forward, adjoint, svd = on_a_torus(kernel, shape)
    else:
        forward, svd = padded(kernel, BOUNDARIES[boundary]), None
        adjoint = transpose_of(forward, tuple(shape))
    return LinearOperator(name, tuple(shape), tuple(shape), forward, adjoint, svd)


def gaussian_kernel(std: float, largest: int = 2**30) -> np.ndarray:
    """A Gaussian `(n, n)` of sum one, out to 3 std, or as far as `largest` pixels allow.

    Raises:
        ValueError: for a std that is not positive.
    """
    if not 0.0 < std < np.inf:
        raise ValueError(f"The blur has the standard deviation {std}; it must be positive.")
    reach = min(int(np.ceil(3.0 * std)), (largest - 1) // 2)
    line = np.exp(-0.5 * (np.arange(-reach, reach + 1) / std) ** 2)
    return np.outer(line, line) / np.sum(line) ** 2


def check_kernel(kernel: np.ndarray, shape: tuple[int, int, int]) -> None:
    sides = kernel.shape
    if len(sides) != 2 or any(n % 2 == 0 or n > most for n, most in zip(sides, shape)):
        raise ValueError(
            f"The kernel has shape {sides} for {shape[0]} x {shape[1]} pixels; it needs two odd "
            "sides, none longer than the image's."
        )
    if not np.all(np.isfinite(kernel)) or not np.any(kernel):
        raise ValueError("The kernel is zero or not finite; give the weights of the blur.")


def on_a_torus(kernel: np.ndarray, shape: tuple[int, int, int]):
    """`(forward, adjoint, SVD)` by the Fourier transform."""
    placed = np.zeros(shape[:2])
    placed[: kernel.shape[0], : kernel.shape[1]] = kernel
    shift = tuple(-(n // 2) for n in kernel.shape)
    h = np.fft.fft2(np.roll(placed, shift, axis=(0, 1)))[..., None]
    size = np.abs(h)
    phase = np.where(size > NO_PHASE * size.max(), h / np.where(size > 0.0, size, 1.0), 1.0)
    vt, v = analysis(shape), synthesis(shape)
    svd = SVD(
        s=np.broadcast_to(size, shape).reshape(-1),
        vt=vt,
        v=v,
        ut=lambda y: vt(multiply(y, phase.conj())),
        u=lambda z: multiply(v(z), phase),
    )
    return lambda x: multiply(x, h), lambda y: multiply(y, h.conj()), svd


def multiply(x: Array, factor: np.ndarray) -> Array:
    """`F^H diag(factor) F x`, real for a factor whose values at k and -k are conjugate."""
    F = jnp.fft.fft2(x, axes=AXES)
    return jnp.fft.ifft2(F * jnp.asarray(factor[None], F.dtype), axes=AXES).real


def padded(kernel: np.ndarray, mode: str):
    """`forward` on an image with added pixels, as a direct sum over the kernel."""
    up, left = (n // 2 for n in kernel.shape)
    flipped = kernel[::-1, ::-1, None, None]

    def forward(x: Array) -> Array:
        batch, height, width, channels = x.shape
        x = jnp.moveaxis(x, 3, 1).reshape(batch * channels, height, width, 1)
        x = jnp.pad(x, ((0, 0), (up, up), (left, left), (0, 0)), mode=mode)
        y = jax.lax.conv_general_dilated(
            x, jnp.asarray(flipped, x.dtype), (1, 1), "VALID",
            dimension_numbers=("NHWC", "HWIO", "NHWC"), precision=jax.lax.Precision.HIGHEST,
        )  # fmt: skip
        return jnp.moveaxis(y.reshape(batch, channels, height, width), 1, 3)

    return forward
