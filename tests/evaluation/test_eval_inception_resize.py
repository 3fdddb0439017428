"""Resizes to the side of Inception against closed forms, Pillow, and stored cases of torch."""

import json

import numpy as np
import pytest
from inception_reference import STORED, small_image, torch_resized
from PIL import Image

from evaluation.spaces.inception.resize import RESIZES, SIDE, clean, legacy_pytorch, to_side

TORCH = {
    "legacy_pytorch": ("bilinear", {"mode": "bilinear"}),
    "clean": ("bicubic", {"mode": "bicubic", "antialias": True}),
}


def places(name, before, after):
    """The positions, in pixels of the image, of the result's pixels, clipped to the image."""
    i = np.arange(after)
    at = i * before / after if name == "legacy_tensorflow" else (i + 0.5) * before / after - 0.5
    return at.clip(0, before - 1)


@pytest.mark.parametrize("name", RESIZES)
@pytest.mark.parametrize("before", [8, 32, 100])
def test_a_ramp_stays_a_ramp(name, before):
    """Along each axis the resize of a ramp is the ramp at `places`. The cubic differs within two
    pixels of both ends."""
    ramp = (np.arange(before) / before).astype(np.float32)
    truth = places(name, before, SIDE) / before
    image = np.zeros((2, before, 6, 3), np.float32)
    image[0, ..., 0] = ramp[:, None]
    image[1, :, :, 2] = 1 - ramp[:, None]
    up_and_down = RESIZES[name](image)
    across = RESIZES[name](image.swapaxes(1, 2))
    margin = 2 * SIDE // before + 1 if name == "clean" else 0
    inner = slice(margin, SIDE - margin)
    for found in (up_and_down, across.swapaxes(1, 2)):
        assert found.shape == (2, SIDE, SIDE, 3) and found.dtype == np.float32
        columns = np.broadcast_to(truth[inner, None], (SIDE - 2 * margin, SIDE))
        np.testing.assert_allclose(found[0, inner, :, 0], columns, atol=1e-6)
        np.testing.assert_allclose(found[1, inner, :, 2], 1 - columns, atol=1e-6)
        assert not found[..., 1].any()


def test_halving_a_ramp():
    """TensorFlow takes every second pixel and torch the mean of two. The mean of `clean` has the
    same centre as torch's and is longer."""
    image = np.broadcast_to((np.arange(64, dtype=np.float32) / 64)[:, None, None], (1, 64, 64, 1))
    found = {name: resize(image, 32)[0, :, 5, 0] * 64 for name, resize in RESIZES.items()}
    i = np.arange(32)
    np.testing.assert_allclose(found["legacy_tensorflow"], 2 * i, atol=1e-4)
    np.testing.assert_allclose(found["legacy_pytorch"], 2 * i + 0.5, atol=1e-4)
    np.testing.assert_allclose(found["clean"][4:-4], (2 * i + 0.5)[4:-4], atol=1e-4)


def test_only_clean_is_antialiased():
    """`clean` makes a fine checkerboard grey. The legacy resizes skip most pixels, which leaves a
    pattern."""
    image = (np.indices((128, 128)).sum(axis=0) % 2).astype(np.float32)[None, :, :, None]
    ripple = {name: np.ptp(resize(image, 30)) for name, resize in RESIZES.items()}
    assert ripple["clean"] < 0.05
    assert min(ripple["legacy_tensorflow"], ripple["legacy_pytorch"]) > 0.5


def test_clean_is_pillow_without_its_rounding():
    """Pillow resizes 8-bit RGB with the same filter and rounds after each axis. It also clips after
    each axis, so the test's levels are far from 0 and 255."""
    levels = np.random.default_rng(0).integers(90, 166, (20, 31, 3), np.uint8)
    theirs = Image.fromarray(levels).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    ours = 255 * clean((levels / 255).astype(np.float32)[None])[0]
    gap = ours - np.asarray(theirs, np.float32)
    assert np.abs(gap).max() < 1.3 and np.abs(gap).mean() > 0.1


def test_clean_stays_in_the_unit_interval():
    """At an edge a cubic overshoots on both sides; clean-fid clips it to the grey levels."""
    image = np.zeros((1, 8, 8, 1), np.float32)
    image[:, 4:] = 1
    found = clean(image)
    assert found.min() == 0 and found.max() == 1
    column = found[0, :, 0, 0]
    assert (column == 1).sum() > SIDE // 8  # there was an overshoot to clip


@pytest.mark.parametrize("side", [3, 12])
@pytest.mark.parametrize("name", TORCH)
def test_stored_cases_of_torch(name, side):
    """Results smaller and larger than the 5x7 image. Ours clips the cubic; torch does not."""
    truth = np.array(json.loads(STORED.read_text())[f"{TORCH[name][0]}_{side}"])
    found = RESIZES[name](small_image(), side)
    np.testing.assert_allclose(found, truth.clip(0, 1), atol=1e-6)


@pytest.mark.parametrize("name", TORCH)
@pytest.mark.parametrize("shape", [(2, 32, 32, 3), (1, 400, 310, 1), (1, 299, 299, 3)])
def test_against_torch(name, shape):
    pytest.importorskip("torch")
    image = np.random.default_rng(1).random(shape).astype(np.float32)
    truth = torch_resized(image, SIDE, **TORCH[name][1])
    np.testing.assert_allclose(RESIZES[name](image), truth.clip(0, 1), atol=2e-6)


@pytest.mark.parametrize("name", RESIZES)
def test_of_its_own_size_an_image_stays(name):
    image = np.random.default_rng(2).random((1, SIDE, SIDE, 3)).astype(np.float32)
    np.testing.assert_allclose(RESIZES[name](image), image, atol=1e-6)


@pytest.mark.parametrize("name", RESIZES)
def test_grey_is_repeated(name):
    grey = np.random.default_rng(3).random((2, 9, 7, 1))
    found = to_side(grey, name, 20)
    assert found.shape == (2, 20, 20, 3) and found.dtype == np.float32
    np.testing.assert_array_equal(found, to_side(grey.repeat(3, axis=-1), name, 20))


@pytest.mark.parametrize("shape", [(4, 9, 7, 2), (4, 63), (9, 7, 3)])
def test_images_of_other_shapes(shape):
    with pytest.raises(ValueError, match=r"\(N, H, W, 3\)"):
        to_side(np.zeros(shape), "clean")


def test_the_resizes_differ():
    """The resizes differ clearly, so a distance between differently resized images is wrong."""
    image = small_image()
    assert np.abs(legacy_pytorch(image) - RESIZES["legacy_tensorflow"](image)).max() > 0.1
    assert np.abs(legacy_pytorch(image) - clean(image)).max() > 0.02
