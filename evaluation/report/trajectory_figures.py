"""Figures of sampling trajectories over the noise level, noise on the left.

Each figure shows the mean over runs and the middle 80 % of them; the curves are defined in
`evaluation/tasks/trajectories.py`.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from evaluation.report.pictures import INK, plotted
from evaluation.tasks.score_deviation import ScoreDeviation

BLUE, ORANGE, GREEN = "#4c8dd6", "#e08a3c", "#4fa36b"
STATE, DENOISED = ("states", BLUE), ("denoiser outputs", ORANGE)


class Drawing(NamedTuple):
    """A figure: label of the y axis, curves `{name: (label, colour)}`, and scale of the y axis."""

    label: str
    series: dict[str, tuple[str, str]]
    scale: str = "linear"


DRAWINGS = {
    "deviation": Drawing(
        "distance from the chord / chord",
        {"deviation_state": STATE, "deviation_denoised": DENOISED},
    ),
    "norm": Drawing("norm", {"norm_state": STATE, "norm_denoised": DENOISED}, "log"),
    "to_end": Drawing(
        "distance to the end", {"to_end_state": STATE, "to_end_denoised": DENOISED}, "log"
    ),
    "turning": Drawing(
        "angle between steps, radians", {"turning_state": STATE, "turning_denoised": DENOISED}
    ),
    "logp": Drawing("log density of the state, nats", {"density_logp": STATE}, "symlog"),
    "gain": Drawing(
        "gain in log density, nats",
        {"density_step": ("one step", BLUE), "density_denoised": ("state to output", ORANGE)},
        "log",
    ),
    "nearest": Drawing(
        "distance to the nearest example",
        {"density_state_distance": STATE, "density_distance": DENOISED},
        "log",
    ),
    "score_deviation": Drawing(
        "distance, learned to optimal",
        {
            "denoiser": ("outputs at the same state", BLUE),
            "outputs": ("outputs on the two paths", ORANGE),
            "paths": ("states on the two paths", GREEN),
        },
    ),
}


def figures(
    sigma: np.ndarray, curves: Mapping[str, np.ndarray], *, format: str = "svg"
) -> dict[str, bytes]:
    """Draw every figure for which there are curves; return the files by name.

    Args:
        sigma: `(T,)` noise levels.
        curves: as `trajectories.curves` gives them, `(T, B)` or one or two nodes shorter. A shorter
            curve is drawn at the first levels.
        format: "svg" or "png".

    Raises:
        ValueError: as `curve_figure`.
    """
    return {
        name: curve_figure(sigma, {k: curves[k] for k in drawing.series}, drawing, format=format)
        for name, drawing in DRAWINGS.items()
        if all(key in curves for key in drawing.series)
    }


def deviation_curves(found: ScoreDeviation) -> dict[str, np.ndarray]:
    """The curves of the figure `score_deviation`."""
    return {name: getattr(found, name) for name in DRAWINGS["score_deviation"].series}


def curve_figure(
    sigma: np.ndarray, curves: Mapping[str, np.ndarray], drawing: Drawing, *, format: str = "svg"
) -> bytes:
    """Draw one figure, as an SVG or PNG on a clear background.

    Raises:
        ValueError: for a curve that is longer than sigma or has no finite value.
    """
    figure = Figure(figsize=(5.6, 2.9), layout="constrained")
    axes = figure.subplots()
    for key, (label, colour) in drawing.series.items():
        values = np.asarray(curves[key], float)
        if len(values) > len(sigma) or not np.any(np.isfinite(values)):
            raise ValueError(
                f"the curve {key!r} has {len(values)} nodes for {len(sigma)} noise levels; a "
                "figure needs a level for every node, and something finite at one of them"
            )
        # A log axis cannot show zeros; a node where no run has a value is left out.
        values = np.where(values > 0, values, np.nan) if drawing.scale == "log" else values
        drawn = np.isfinite(values).any(axis=1)
        levels, values = np.asarray(sigma)[: len(values)][drawn], values[drawn]
        low, high = np.nanquantile(values, (0.1, 0.9), axis=1)
        axes.fill_between(levels, low, high, color=colour, alpha=0.2, linewidth=0)
        axes.plot(levels, np.nanmean(values, axis=1), color=colour, linewidth=1.8, label=label)
    axes.set_xscale("log")
    axes.set_yscale(drawing.scale)
    axes.set_xlim(max(sigma), min(sigma))
    axes.set_xlabel("σ", color=INK)
    axes.set_ylabel(drawing.label, color=INK)
    return plotted(figure, format, "trajectory")
