"""Pictures have every pixel in its place, and files decode to the pictures drawn."""

import io

import numpy as np
import pytest
from matplotlib._pylab_helpers import Gcf
from PIL import Image

from evaluation.report.pictures import (
    GAP,
    LEGIBLE,
    NOT_FINITE,
    grid,
    loss_curve,
    save_png,
    series,
    trajectory_figure,
    window_means,
)


def decode(data):
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("columns", [1, 2, 5])
def test_every_image_stands_in_its_cell(channels, columns):
    """Non-square images are enlarged by a whole factor and placed row by row."""
    levels = np.random.default_rng(0).integers(0, 256, (5, 2, 3, channels))
    picture = grid((levels / 255).astype(np.float32), columns)
    factor = LEGIBLE // 2
    height, width = 2 * factor, 3 * factor
    rows = -(-5 // columns)
    shape = (rows * height + (rows - 1) * GAP, columns * width + (columns - 1) * GAP, 3)
    assert picture.shape == shape and picture.dtype == np.uint8
    for i in range(5):
        top, left = (i // columns) * (height + GAP), (i % columns) * (width + GAP)
        cell = picture[top : top + height, left : left + width]
        for c in range(3):
            truth = np.kron(levels[i, ..., c % channels], np.ones((factor, factor)))
            np.testing.assert_array_equal(cell[..., c], truth)


def test_large_images_keep_their_size_and_few_images_their_columns():
    images = np.zeros((4, 70, 50, 3))
    assert grid(images, columns=9).shape == (70, 4 * 50 + 3 * GAP, 3)
    assert grid(images[:1]).shape == (70, 50, 3)
    height, width, _ = grid(np.zeros((100, 8, 8, 1))).shape
    assert height == width == 10 * LEGIBLE + 9 * GAP


def test_values_are_rounded_and_clipped_and_lost_ones_shown():
    """254.6 is rounded to 255. Truncation would darken every picture by half a level."""
    row = np.array([254.6 / 255, 0.4 / 255, -3.0, 1.7, np.nan, np.inf], np.float32)
    picture = grid(np.broadcast_to(row, (1, 48, 6))[..., None], 1)
    factor = LEGIBLE // 6
    np.testing.assert_array_equal(picture[0, ::factor, 0][:4], [255, 0, 0, 255])
    np.testing.assert_array_equal(picture[0, ::factor][4:], [NOT_FINITE, NOT_FINITE])


def test_png_holds_the_picture(tmp_path):
    picture = grid(np.random.default_rng(0).random((3, 8, 8, 3)))
    save_png(tmp_path / "a.png", picture)
    np.testing.assert_array_equal(decode((tmp_path / "a.png").read_bytes()), picture)
    with pytest.raises(ValueError, match="uint8"):
        save_png(tmp_path / "b.png", picture / 255)


def test_trajectory_has_a_column_for_every_time():
    """The centres of the cells have the right greys: frame k has the grey k / 4, and sample 1 half
    of this."""
    greys = np.arange(1, 5)[:, None, None, None, None] / 4 * np.array([1, 0.5])[:, None, None, None]
    frames = np.broadcast_to(greys, (4, 2, 8, 8, 1))
    buffer = io.BytesIO()
    trajectory_figure(frames, [1, 0.7, 0.3, 0], buffer)
    picture = decode(buffer.getvalue())
    height, width, _ = picture.shape
    x = ((np.arange(4) + 0.5) * width / 4).astype(int)
    label = height - 2 * width / 4  # the cells are square; the rest of the height is for labels
    assert 0 < label < height / 4
    for row, shade in ((0, 1.0), (1, 0.5)):
        y = int(label + (row + 0.5) * width / 4)
        np.testing.assert_allclose(picture[y, x, 0], np.arange(1, 5) / 4 * 255 * shade, atol=2)
    for k in range(4):  # every column has a label above it
        above = picture[: int(0.9 * label), k * width // 4 : (k + 1) * width // 4]
        assert above.min() < 160 < above.max()


def test_curves_are_drawn_as_they_are():
    """A falling loss is drawn as a falling line, with the lower evaluation loss below it."""
    rows = [{"step": s, "loss": 4 - s / 100, "eval_loss": 3 - s / 100} for s in range(0, 101, 10)]
    picture = decode(loss_curve(rows, format="png")).astype(int)
    blue = np.argwhere(np.abs(picture - [0x4C, 0x8D, 0xD6]).sum(axis=2) < 30)
    orange = np.argwhere(np.abs(picture - [0xE0, 0x8A, 0x3C]).sum(axis=2) < 30)
    height, width = picture.shape[:2]
    for points in (blue, orange):
        line = points[points[:, 1] < width * 0.6]  # the legend is not part of the line
        assert np.corrcoef(line.T)[0, 1] > 0.99
    assert np.median(orange[:, 0]) > np.median(blue[:, 0]) + height / 10


def test_rows_are_sorted_and_gaps_left_out():
    rows = [
        {"step": 3, "loss": 1.0},
        {"step": 1, "loss": 2.0, "eval_loss": None},
        {"step": 2, "loss": float("nan"), "eval_loss": 5.0},
    ]
    steps, values = series(rows, "loss")
    np.testing.assert_array_equal([steps, values], [[1, 3], [2.0, 1.0]])
    np.testing.assert_array_equal(np.ravel(series(rows, "eval_loss")), [2, 5.0])
    assert series([], "loss")[0].size == 0


def test_window_means():
    steps, values = window_means(np.arange(7.0), np.array([1, 3, 5, 7, 9, 11, 2.0]), 3)
    np.testing.assert_allclose(steps, [1, 4, 6])
    np.testing.assert_allclose(values, [3, 9, 2])


@pytest.mark.parametrize("rows", [1, 3, 500])
def test_loss_curve_repeats_itself_and_leaves_no_state(rows):
    metrics = [{"step": k, "loss": 1 / (k + 1)} for k in range(rows)]
    assert loss_curve(metrics) == loss_curve(metrics)
    assert b"<svg" in loss_curve(metrics)[:1000]
    assert not Gcf.figs


def test_refusals():
    for wrong in (np.zeros((8, 8)), np.zeros((2, 8, 8, 2)), np.zeros((0, 8, 8, 1))):
        with pytest.raises(ValueError, match="channels"):
            grid(wrong)
    with pytest.raises(ValueError, match="highest level"):
        grid(np.zeros((2, 8, 8, 1), np.uint8))
    with pytest.raises(ValueError, match="columns"):
        grid(np.zeros((2, 8, 8, 1)), columns=0)
    with pytest.raises(ValueError, match="one time a frame"):
        trajectory_figure(np.zeros((3, 2, 8, 8, 1)), [1, 0], io.BytesIO())
    for rows in ([], [{"step": 1, "loss": float("nan")}], [{"step": 1, "other": 2.0}]):
        with pytest.raises(ValueError, match="finite value"):
            loss_curve(rows)
