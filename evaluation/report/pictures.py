"""Pictures of a report: grids of images, trajectories from noise to data, and loss curves.

Figures are drawn on matplotlib `Figure` objects and never through pyplot. They therefore need no
display and leave no global state.
"""

import contextlib
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from PIL import Image

from whole_files import writing

LEGIBLE = 48  # pixels: smaller images are enlarged until their shorter side has this many
NOT_FINITE = (255, 0, 255)  # magenta, a colour that no grey image has
GAP = 2  # pixels between images, after enlarging
INK = "#7d8590"  # legible on a white page and on a dark one
SERIES = {"loss": ("training loss", "#4c8dd6"), "eval_loss": ("evaluation loss", "#e08a3c")}


def grid(images, columns: int | None = None) -> np.ndarray:
    """Arrange images (N, H, W, C), floats in [0, 1], in one picture (height, width, 3), uint8.

    Values outside [0, 1] are clipped and levels are rounded, not truncated. Images smaller than
    `LEGIBLE` are enlarged by an integer factor, without smoothing. Pixels that are not finite are
    magenta.

    Args:
        images: C is 1 or 3; at least one image.
        columns: images a row; the default makes the picture about square.

    Raises:
        ValueError: wrong shape, integers, or columns < 1.
    """
    x = to_rgb_bytes(images)
    n, height, width, _ = x.shape
    factor = -(-LEGIBLE // min(height, width))
    x = x.repeat(factor, axis=1).repeat(factor, axis=2)
    step_y, step_x = height * factor + GAP, width * factor + GAP
    if columns is None:
        columns = max(1, round((n * step_y / step_x) ** 0.5))
    if columns < 1:
        raise ValueError(f"columns is {columns}; a grid needs at least one: pass columns >= 1")
    columns = min(columns, n)
    rows = -(-n // columns)
    canvas = np.full((rows * step_y - GAP, columns * step_x - GAP, 3), 128, np.uint8)
    for i, image in enumerate(x):
        top, left = i // columns * step_y, i % columns * step_x
        canvas[top : top + step_y - GAP, left : left + step_x - GAP] = image
    return canvas


def save_png(path: str | Path | BinaryIO, image: np.ndarray) -> None:
    """Write a picture (H, W, 3) or (H, W), uint8, as PNG to a path or a binary file.

    Raises:
        ValueError: the picture is not uint8.
    """
    if image.dtype != np.uint8:
        raise ValueError(
            f"the picture has dtype {image.dtype}; a PNG is written from uint8: make it with grid()"
        )
    with opened(path) as file:
        Image.fromarray(image).save(file, format="PNG")


def trajectory_figure(
    frames, times: Sequence[float], path: str | Path | BinaryIO, *, symbol: str = "t"
) -> None:
    """Write a PNG with a row for every sample and a column for every time, noise on the left.

    Args:
        frames: (T, N, H, W, C), floats in [0, 1] (clipped), from noise to data.
        times: T values, decreasing if frames run from noise to data; written above the columns.
        path: a path or a binary file.
        symbol: the name of the times above the columns, such as "t" or "σ".

    Raises:
        ValueError: the number of times is not that of the frames, or frames are not images.
    """
    frames, times = np.asarray(frames), np.asarray(times, float)
    if frames.ndim != 5 or times.shape != frames.shape[:1]:
        raise ValueError(
            f"frames have shape {frames.shape} and times {times.shape}; a trajectory needs frames "
            "(T, N, H, W, C) and one time a frame: stack the frames along the first axis"
        )
    strips = [grid(frame, columns=1) for frame in frames]
    height, width, _ = strips[0].shape
    inch = 0.62  # width of a column
    label = 0.22  # height above the pictures
    figure = Figure(figsize=(inch * len(strips), inch * height / width + label), dpi=160)
    for k, (strip, t) in enumerate(zip(strips, times)):
        left, top = k / len(strips), 1 - label / figure.get_figheight()
        axes = figure.add_axes((left + 0.03 / len(strips), 0, 0.94 / len(strips), top))
        axes.imshow(strip, interpolation="nearest", aspect="auto")
        axes.set_axis_off()
        axes.set_title(f"{symbol} = {t:.2g}", fontsize=7.5, color=INK, pad=4)
    with opened(path) as file:
        figure.savefig(file, format="png", transparent=True)


def opened(path: str | Path | BinaryIO):
    """A context of a binary file: the given one, or a new one that replaces `path` when whole."""
    return contextlib.nullcontext(path) if hasattr(path, "write") else writing(path)


def loss_curve(metrics: Sequence[Mapping], *, format: str = "svg") -> bytes:
    """Training and evaluation loss against the step, as an SVG or PNG on a clear background.

    Args:
        metrics: rows with "step" and "loss", "eval_loss" or both. Other keys are ignored, and so
            are values that are not finite, which a log axis cannot show.
        format: "svg" or "png".

    Raises:
        ValueError: no row has a finite loss.
    """
    curves = {key: series(metrics, key) for key in SERIES}
    values = np.concatenate([y for _, y in curves.values()])
    if not values.size:
        raise ValueError(
            f"none of {len(metrics)} metric rows has a step and a finite value under "
            f"{list(SERIES)}; a loss curve needs one: pass the rows that training wrote"
        )
    figure = Figure(figsize=(5.6, 2.9), layout="constrained")
    axes = figure.subplots()
    for key, (steps, losses) in curves.items():
        label, colour = SERIES[key]
        alone = "o" if len(steps) == 1 else None
        if len(steps) > 60:
            axes.plot(steps, losses, color=colour, alpha=0.25, linewidth=0.8)
            steps, losses = window_means(steps, losses, len(steps) // 30)
        if len(steps):
            axes.plot(steps, losses, color=colour, linewidth=1.8, marker=alone, label=label)
    if values.min() > 0 and values.max() > 10 * values.min():
        axes.set_yscale("log")
    axes.set_xlabel("step", color=INK)
    axes.locator_params(axis="x", nbins=5, integer=True)
    return plotted(figure, format, "loss")


def plotted(figure: Figure, format: str, salt: str) -> bytes:
    """Return the bytes of a figure with one plot, in the style of the page.

    Args:
        format: "svg" or "png".
        salt: seed of the ids in an SVG.
    """
    (axes,) = figure.axes
    axes.tick_params(which="both", colors=INK)
    axes.grid(color=INK, alpha=0.2, linewidth=0.6)
    axes.spines[:].set_visible(False)
    axes.legend(frameon=False, labelcolor=INK)
    buffer = io.BytesIO()
    # Without a date and with fixed ids, equal numbers give equal files.
    metadata = {"Date": None} if format == "svg" else None
    with rc_context({"svg.hashsalt": salt}):
        figure.savefig(buffer, format=format, transparent=True, dpi=160, metadata=metadata)
    return buffer.getvalue()


def series(metrics: Sequence[Mapping], key: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values of one key in the order of the steps, without values that are not finite."""
    rows = [(row["step"], row[key]) for row in metrics if row.get(key) is not None]
    table = np.array(sorted(rows), float).reshape(-1, 2)
    table = table[np.isfinite(table).all(axis=1)]
    return table[:, 0], table[:, 1]


def window_means(steps, values, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Means over consecutive windows of `width` rows; a shorter last window is kept."""
    starts = np.arange(0, len(values), width)
    counts = np.diff([*starts, len(values)])
    return np.add.reduceat(steps, starts) / counts, np.add.reduceat(values, starts) / counts


def to_rgb_bytes(images) -> np.ndarray:
    """Convert (N, H, W, C) floats to (N, H, W, 3) uint8, clipped and rounded; C is 1 or 3.

    Pixels that are not finite get the colour NOT_FINITE, so that a diverged sample is visible and
    does not stop the run that draws it.

    Raises:
        ValueError: another shape, or integers.
    """
    x = np.asarray(images)
    if x.ndim != 4 or x.shape[-1] not in (1, 3) or 0 in x.shape:
        raise ValueError(
            f"images have shape {x.shape}; a grid needs (N, H, W, C) with N >= 1 and 1 or 3 "
            "channels: add the channel axis, or pick the channels to show"
        )
    if not np.issubdtype(x.dtype, np.floating):
        raise ValueError(
            f"images have dtype {x.dtype}; a grid needs floats in [0, 1]: divide integer levels by "
            "the highest level"
        )
    lost = ~np.isfinite(x).all(axis=-1, keepdims=True)
    x = np.round(np.clip(np.where(lost, 0, x), 0, 1) * 255).astype(np.uint8)
    return np.where(lost, np.array(NOT_FINITE, np.uint8), x)
