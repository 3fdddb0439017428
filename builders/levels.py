"""Networks that estimate the noise level: their grid of levels, and a trained one for a chain."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from ml_collections import ConfigDict

import models
import sde_lib
from builders.chains import MEND
from builders.runs import Asked, other_run
from losses.noise_level import levels_of
from samplers.mcmc.levels import LevelLogitsFn
from sde_lib.levels import Levels, make_levels
from training.restore import restore_ema

# The file of such a network in the workdir of an earlier version.
OLD_FILE = "noise_level/classifier.msgpack"
ASKED = Asked(
    "sampling.denoising_mcmc.network", "network of the noise level", models.NOISE_LEVELS, MEND
)


class LevelNetwork(NamedTuple):
    """The levels, and `logits(y)`, log p(level | y) up to a constant for each example."""

    levels: Levels
    logits: LevelLogitsFn


def build_levels(config: ConfigDict, path: sde_lib.AffinePath) -> Levels | None:
    """The levels that a network of the noise level distinguishes; None for other networks."""
    if config.model.name not in models.NOISE_LEVELS:
        return None
    return levels_of(path, config.model.levels, **config.loss.noise_level)


def restored_levels(
    build: Callable, path: sde_lib.AffinePath, shape: tuple[int, ...], centered: bool, workdir: str
) -> LevelNetwork:
    """Load the averaged network of another run, for the states of this run.

    Args:
        build: `(config, reads_data) -> Experiment`; an argument because it calls this function.
        path, shape, centered: the law, the shape of an example and `data.centered` of this run.
        workdir: the workdir of the other run.

    Raises:
        ValueError: there is no such run in `workdir`, or its examples have another shape or
            scaling.
        CheckpointError: the other run has no checkpoint.
    """
    folder = Path(workdir)
    ours = {"data.centered": centered, "the shape of an example": shape}
    try:
        other = other_run(build, ASKED, workdir, ours)
    except ValueError:
        if not (folder / OLD_FILE).is_file():
            raise
        raise ValueError(
            f"{ASKED.key} is {workdir}, whose {OLD_FILE} is of an earlier version and is not read "
            f"any more; {MEND}"
        ) from None
    _, params = restore_ema(other, folder.absolute())
    high, low = (float(other.levels.sigma[i]) for i in (0, -1))
    levels = make_levels(path, len(other.levels.t), low, high)
    return LevelNetwork(levels, lambda y: other.model.apply({"params": params}, y))
