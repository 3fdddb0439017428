"""Resampling against zero insertion and SciPy's two-dimensional convolution."""

import jax
import numpy as np
import pytest
from scipy.signal import convolve2d

from models import resample

# Taps that are not symmetric, because symmetric taps would hide a filter applied backwards.
TAPS = [(1, 3, 3, 1), (1, 2, 5, 3), (4, 1, 2), (3, 1), (1, 4, 6, 4, 2), (1, 2, 0, 5, 3, 2)]
MARGIN = 10  # width of the zeros around an image, more than any filter here needs


def image(channels, seed=0):
    return np.random.default_rng(seed).standard_normal((2, 8, 6, channels)).astype(np.float32)


def each_plane(x, f):
    planes = [[f(x[b, :, :, c]) for c in range(x.shape[-1])] for b in range(len(x))]
    return np.stack([np.stack(row, axis=-1) for row in planes])


def kernel_2d(taps, gain):
    k = np.outer(taps, taps).astype(np.float64)
    return gain * k / k.sum()


def upsample_wide(x, taps):
    """Return zero insertion and full convolution on a wide canvas, and the place of pixel 0."""

    def plane(p):
        z = np.zeros((2 * p.shape[0], 2 * p.shape[1]))
        z[::2, ::2] = p
        return convolve2d(np.pad(z, MARGIN), kernel_2d(taps, 4.0))

    # A full convolution has sample 0 at index 0, and the filter's centre is at (K - 1) / 2. The
    # centre of the two pixels that replace pixel 0 is half a new pixel after sample 0.
    return each_plane(x, plane), MARGIN + (len(taps) - 2) // 2


@pytest.mark.parametrize("taps", TAPS, ids=str)
@pytest.mark.parametrize("channels", [2, 5])
def test_fir_upsample(taps, channels, jit):
    x = image(channels)
    wide, o = upsample_wide(x, taps)
    expected = wide[:, o : o + 16, o : o + 12]
    y = jit(resample.fir_upsample, static_argnums=1)(x, taps)
    assert y.shape == (2, 16, 12, channels)
    np.testing.assert_allclose(y, expected, atol=3e-6)


@pytest.mark.parametrize("taps", TAPS, ids=str)
@pytest.mark.parametrize("channels", [2, 5])
def test_fir_downsample(taps, channels, jit):
    x = image(channels)
    # Output pixel i is centred between the input pixels 2 i and 2 i + 1, or on pixel 2 i.
    o = MARGIN + len(taps) // 2
    expected = each_plane(x, lambda p: convolve2d(np.pad(p, MARGIN), kernel_2d(taps, 1.0)))
    y = jit(resample.fir_downsample, static_argnums=1)(x, taps)
    assert y.shape == (2, 4, 3, channels)
    np.testing.assert_allclose(y, expected[:, o : o + 8 : 2, o : o + 6 : 2], atol=3e-6)


def correlate(wide, kernel):
    """Return the full correlation of (B, H, W, C) with (3, 3, C, C'); pixel i moves to i + 1."""
    out = np.zeros((len(wide), wide.shape[1] + 2, wide.shape[2] + 2, kernel.shape[-1]))
    for c in range(kernel.shape[2]):
        for d in range(kernel.shape[3]):
            flipped = kernel[::-1, ::-1, c, d]
            out[..., d] += np.stack([convolve2d(plane[:, :, c], flipped) for plane in wide])
    return out


@pytest.mark.parametrize("taps", TAPS, ids=str)
def test_fused_with_a_convolution(taps, jit):
    x, kernel = image(2), np.random.default_rng(1).standard_normal((3, 3, 2, 3)).astype(np.float32)
    wide, o = upsample_wide(x, taps)
    expected = correlate(wide, kernel)[:, o + 1 : o + 17, o + 1 : o + 13]
    y = jit(resample.fir_conv_upsample, static_argnums=2)(x, kernel, taps)
    np.testing.assert_allclose(y, expected, atol=3e-5)

    padded = np.pad(x, ((0, 0), (MARGIN, MARGIN), (MARGIN, MARGIN), (0, 0)))
    convolved = correlate(padded, kernel)
    filtered = each_plane(convolved, lambda p: convolve2d(p, kernel_2d(taps, 1.0)))
    o = MARGIN + 1 + len(taps) // 2
    expected = filtered[:, o : o + 8 : 2, o : o + 6 : 2]
    y = jit(resample.fir_conv_downsample, static_argnums=2)(x, kernel, taps)
    np.testing.assert_allclose(y, expected, atol=3e-5)


@pytest.mark.parametrize("key", ["1331", "121", "11", "14641"])
def test_original(key, load, jit, rel):
    g, taps = load("layers"), [int(digit) for digit in key]
    x, kernel, bias = (g[k] for k in ("x", f"fir_{key}/conv_weight", f"fir_{key}/conv_bias"))

    @jit
    def outputs():
        return {
            "upsample": resample.fir_upsample(x, taps),
            "downsample": resample.fir_downsample(x, taps),
            "conv_up": resample.fir_conv_upsample(x, kernel, taps) + bias,
            "conv_down": resample.fir_conv_downsample(x, kernel, taps) + bias,
        }

    for name, y in outputs().items():
        assert rel(y, g[f"fir_{key}/{name}"]) < 1e-5, name


def test_nearest_and_mean():
    x = image(5)
    both = jax.jit(lambda x: (resample.nearest_upsample(x), resample.mean_downsample(x)))
    larger, smaller = both(x)
    np.testing.assert_array_equal(larger, x.repeat(2, 1).repeat(2, 2))
    corners = [x[:, i::2, j::2] for i in (0, 1) for j in (0, 1)]
    np.testing.assert_allclose(smaller, sum(corners) / 4, atol=1e-6)


@pytest.mark.parametrize("taps", [(1,), (), (1, -1)], ids=str)
def test_refuses_taps_that_are_no_filter(taps):
    with pytest.raises(ValueError, match="two or more taps of nonzero sum"):
        resample.fir_upsample(image(2), taps)


def test_check_halving():
    resample.check_halving((32, 16, 3), 4)
    resample.check_halving((7, 32, 16, 3), 4)
    resample.check_halving((7, 5, 3), 1)
    with pytest.raises(ValueError, match=r"30x45.*multiples of 8.*3 times") as error:
        resample.check_halving((2, 30, 45, 3), 4)
    assert "height 24 or 32 and width 40 or 48" in str(error.value)
    with pytest.raises(ValueError, match="height 8 and width 16"):
        resample.check_halving((5, 16, 1), 4)
    with pytest.raises(ValueError, match="height, width, channels"):
        resample.check_halving((16, 16), 4)
