"""Figures of trajectories: the curves are in the right place, with large noise on the left."""

import io

import numpy as np
import pytest
from matplotlib._pylab_helpers import Gcf
from PIL import Image

from evaluation.report.trajectory_figures import (
    BLUE,
    DRAWINGS,
    ORANGE,
    Drawing,
    curve_figure,
    deviation_curves,
    figures,
)

SIGMA = np.geomspace(20.0, 0.01, 30)


def pixels(picture, colour):
    rgb = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return np.argwhere(np.abs(picture.astype(int) - rgb).sum(axis=2) < 30)


def decode(data):
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def test_curves_are_drawn_as_they_are():
    """Powers of sigma are lines on two log axes. Large noise is on the left, so the lines fall. The
    smaller curve is below, and a curve with eight nodes less ends before the right edge."""
    noise = np.exp(0.05 * np.random.default_rng(0).standard_normal((30, 50)))
    curves = {"a": SIGMA[:, None] * noise, "b": 0.1 * (SIGMA[:, None] * noise)[:-8]}
    drawing = Drawing("what", {"a": ("a", BLUE), "b": ("b", ORANGE)}, "log")
    picture = decode(curve_figure(SIGMA, curves, drawing, format="png"))
    blue, orange = pixels(picture, BLUE), pixels(picture, ORANGE)
    line = lambda points: points[points[:, 1] < 0.7 * picture.shape[1]]  # not the legend
    for points in (blue, orange):
        assert np.corrcoef(line(points).T)[0, 1] > 0.99
    assert np.median(line(orange)[:, 0]) > np.median(line(blue)[:, 0]) + picture.shape[0] / 20
    low = lambda points: points[points[:, 0] > picture.shape[0] / 2]
    assert low(blue)[:, 1].max() > low(orange)[:, 1].max() + picture.shape[1] / 10


def test_gaps_are_left_where_nothing_is_known():
    """Zeros on a log axis leave a gap. The mean is over the runs that have a value, without nan."""
    values = np.repeat(SIGMA[:, None], 2, axis=1)
    values[:10], values[12, 0] = 0.0, np.nan
    drawing = Drawing("what", {"a": ("a", BLUE)}, "log")
    blue = pixels(decode(curve_figure(SIGMA, {"a": values}, drawing, format="png")), BLUE)
    whole = np.repeat(SIGMA[:, None], 2, axis=1)
    full = pixels(decode(curve_figure(SIGMA, {"a": whole}, drawing, format="png")), BLUE)
    assert blue[:, 1].min() > full[:, 1].min() + 100


def test_there_is_a_figure_for_what_there_is():
    names = [key for drawing in DRAWINGS.values() for key in drawing.series]
    assert len(set(names)) == len(names)
    curves = {name: np.abs(np.random.default_rng(0).standard_normal((30, 4))) for name in names}
    drawn = figures(SIGMA, curves)
    assert list(drawn) == list(DRAWINGS) and not Gcf.figs
    assert all(b"<svg" in svg[:1000] for svg in drawn.values())
    few = {name: curves[name] for name in ("density_logp", "norm_state")}
    assert figures(SIGMA, few) == {"logp": drawn["logp"]}
    found = type("", (), {"denoiser": 1, "paths": 2, "outputs": 3})
    assert deviation_curves(found) == {"denoiser": 1, "outputs": 3, "paths": 2}


@pytest.mark.parametrize("values", [np.ones((31, 2)), np.full((30, 2), np.nan)])
def test_refusals(values):
    with pytest.raises(ValueError, match="a level for every node"):
        curve_figure(SIGMA, {"a": values}, Drawing("what", {"a": ("a", BLUE)}))
