"""The edit by two flows: up the flow ODE of the images by Heun's method, then down that of the
edits, optionally with noise by region and with time travel."""

import jax
import numpy as np
from jax import Array

from editing.base import Edit, Setting, check_options, faithful, kept
from editing.regional import Travel, regional, time_travel
from editing.sdedit import edit_grid
from samplers import SampleResult, heun, sample
from sde_lib.prediction import PredictFn
from sde_lib.ranges import pair, up_to_one


def by_flow(
    setting: Setting,
    strength: float = 0.5,
    unit: str = "part",
    keep: str = "",
    content: float = 0.0,
    source_label: int = -1,
    eta: float = 0.0,
    eta_kept: float = 0.0,
    repeats: int = 1,
    window: tuple = (0.4, 0.6),
) -> Edit:
    """Up the flow ODE and down again.

    Args:
        strength: the time or noise level to go up to, in the given unit.
        unit: of the strength: "part" of the law's t1, or "sigma", the noise level c / a.
        keep: the kept region, as `guidance.mask.keep`; `content` and `eta_kept` act there.
        content: weight of the energy |x0 - image|^2 / 2 in the kept region.
        source_label: class of the images, the condition on the way up; -1 for none.
        eta: noise on the way down, in [0, 1], in the edited region.
        eta_kept: noise on the way down, in [0, 1], in the kept region.
        repeats: how often each step in the window is taken.
        window: parts of the grid, (first, last).
    """
    check_options(strength, content)
    up_to_one(eta=eta, eta_kept=eta_kept)
    pair(window=window)
    travel = Travel(tuple(window), repeats)
    travel.check()
    if source_label < -1:
        raise ValueError(f"source_label is {source_label}; it must be a class, or -1 for none.")
    if keep and not (content or eta or eta_kept):
        raise ValueError(
            f"keep is {keep!r} and edit.method 'flow', which keeps nothing by itself; give a "
            "weight of the image, content, or noise by region, eta."
        )
    path, stays = setting.path, kept(setting, keep)
    ts = edit_grid(path, strength, unit, setting.steps, setting.grid, setting.eps)
    up = down = heun(path)
    if eta or eta_kept:
        down = regional(path, np.where(False if stays is None else stays, eta_kept, eta))

    def run(key: Array, predict: PredictFn, guided: PredictFn, image: Array) -> SampleResult:
        guided = faithful(path, content, stays, image)(guided)
        rising = sample(jax.random.key(0), predict, up, image, ts[::-1])
        travelled = time_travel(
            key, path, predict, down, rising.x, ts, travel=travel, guide=lambda _: guided
        )
        return travelled._replace(nfe=rising.nfe + travelled.nfe)

    return Edit(run, stays, source_label)
