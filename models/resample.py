"""Changing the resolution of NHWC images by two: nearest, mean, and FIR filters.

Taps k of length K are normalised to sum one, and pixels beyond the border are zero. Along each axis

    up:    y[m] = 2 sum_j k[j] z[m - (K - 1) // 2 - 1 + (K - 1 - j)]   z[2 i] = x[i], z[odd] = 0
    down:  y[m] =   sum_j k[j] x[2 m - (K - 1) // 2 + (K - 1 - j)]

(Zhang, Making convolutional networks shift-invariant again, 2019; Karras et al., Analyzing and
improving the image quality of StyleGAN, 2020). Images to be halved must have even height and width.

Filters are computed as sums of shifted slices, one axis after the other. On a CPU a grouped
convolution and its gradient would take many times as long (`benchmarks/speed/cpu_cliffs.py`).
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

SPATIAL = (1, 2)


def nearest_upsample(x: jax.Array) -> jax.Array:
    """Every pixel becomes a 2x2 square: (B, H, W, C) to (B, 2H, 2W, C)."""
    b, h, w, c = x.shape
    # The gradient of a broadcast is a plain sum; the gradient of jnp.repeat is a scatter.
    x = jnp.broadcast_to(x[:, :, None, :, None, :], (b, h, 2, w, 2, c))
    return x.reshape(b, 2 * h, 2 * w, c)


def mean_downsample(x: jax.Array) -> jax.Array:
    """Every 2x2 square becomes its mean: (B, H, W, C) to (B, H/2, W/2, C)."""
    b, h, w, c = x.shape
    return x.reshape(b, h // 2, 2, w // 2, 2, c).mean(axis=(2, 4))


def fir_upsample(x: jax.Array, taps: Sequence[float], margin: int = 0) -> jax.Array:
    """Zero insertion followed by the filter: (B, H, W, C) to (B, 2H + 2 margin, 2W + 2 margin, C).

    The `margin` pixels that are added on every side contain the tails of the filter.
    """
    for axis in SPATIAL:
        x = _upsample_axis(x, normalise(taps, gain=2.0), axis, margin)
    return x


def fir_downsample(x: jax.Array, taps: Sequence[float]) -> jax.Array:
    """The filter, of whose result every second pixel is kept: (B, H, W, C) to (B, H/2, W/2, C)."""
    before, after = _padding(len(taps))
    for axis in SPATIAL:
        x = _filter(x, normalise(taps), axis, before, after, stride=2)
    return x


def fir_conv_upsample(x: jax.Array, kernel: jax.Array, taps: Sequence[float]) -> jax.Array:
    """FIR upsampling and a convolution, padded once: (B, H, W, C) to (B, 2H, 2W, C').

    Beyond the border the convolution sees the tails of the filter, where a SAME convolution of the
    upsampled image would see zeros. Farther inside the results agree. kernel: (k, k, C, C'), k odd.
    """
    x = fir_upsample(x, taps, margin=kernel.shape[0] // 2)
    return _convolve(x, kernel, stride=1)


def fir_conv_downsample(x: jax.Array, kernel: jax.Array, taps: Sequence[float]) -> jax.Array:
    """A convolution and FIR downsampling, padded once: (B, H, W, C) to (B, H/2, W/2, C').

    Filter and convolution commute. The filter therefore comes first, and the convolution is
    evaluated at every second pixel only. kernel: (k, k, C, C'), k odd.
    """
    before, after = _padding(len(taps))
    margin = kernel.shape[0] // 2
    for axis in SPATIAL:
        x = _filter(x, normalise(taps), axis, before + margin, after + margin)
    return _convolve(x, kernel, stride=2)


def normalise(taps: Sequence[float], gain: float = 1.0) -> tuple[float, ...]:
    """The taps scaled to sum to `gain`.

    Raises:
      ValueError: there are fewer than two taps, or their sum is zero.
    """
    if len(taps) < 2 or sum(taps) == 0:
        raise ValueError(f"A FIR filter needs two or more taps of nonzero sum, got {taps!r}.")
    return tuple(gain * float(tap) / float(sum(taps)) for tap in taps)


def _padding(length: int) -> tuple[int, int]:
    """The numbers of zeros before and after an axis that keep a filter of `length` taps centred.

    Their sum is length - 2, so one sample is lost; downsampling would not keep this sample. (A
    filter of even length is centred between two pixels.)
    """
    return (length - 1) // 2, (length - 2) // 2


def _filter(x, taps, axis, before, after, stride=1):
    """`y[m] = sum_j taps[j] x[stride m - before + (K - 1 - j)]`, with x zero outside its range."""
    widths = [(0, 0, 0)] * x.ndim
    widths[axis] = (before, after, 0)
    x = lax.pad(x, jnp.zeros((), x.dtype), widths)
    last = len(taps) - 1
    length = x.shape[axis] - last
    return sum(
        tap * lax.slice_in_dim(x, last - j, last - j + length, stride, axis)
        for j, tap in enumerate(taps)
    )


def _upsample_axis(x, taps, axis, margin):
    """Upsample one axis. Even and odd outputs are two filters of half the length, applied to x
    without inserted zeros.

    Output 2 q + r uses the taps j for which `2 q + r - before + K - 1 - j` is even; tap j is
    multiplied with the pixel of x at half this index.
    """
    before = (len(taps) - 1) // 2 + 1 + margin
    phases = []
    for r in (0, 1):
        offset = r - before + len(taps) - 1
        first = offset % 2
        subset = taps[first::2]
        pad = len(subset) - 1 - (offset - first) // 2
        phases.append(_filter(x, subset, axis, pad, margin + len(subset) - 1 - pad))
    shape = list(x.shape)
    shape[axis] = 2 * (shape[axis] + margin)
    return jnp.stack(phases, axis=axis + 1).reshape(shape)


def _convolve(x, kernel, stride):
    return lax.conv_general_dilated(
        x, kernel, (stride, stride), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def check_halving(shape: tuple[int, ...], levels: int) -> None:
    """Raise ValueError unless images of `shape` (..., H, W, C) can be halved `levels - 1` times."""
    if len(shape) < 3:
        raise ValueError(f"Images have shape (..., height, width, channels), got {shape}.")
    height, width = shape[-3:-1]
    unit = 2 ** (levels - 1)
    if height % unit == 0 and width % unit == 0 and height > 0 and width > 0:
        return

    def nearest(size):
        below, above = size // unit * unit, -(-size // unit) * unit
        return f"{above}" if below in (0, above) else f"{below} or {above}"

    raise ValueError(
        f"Images of {height}x{width} do not fit a network of {levels} levels: height and width "
        f"must be multiples of {unit} to be halved {levels - 1} times; "
        f"the nearest are height {nearest(height)} and width {nearest(width)}."
    )
