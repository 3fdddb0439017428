"""The models of a table: trained if they are missing (laptop scale), or imported checkpoints."""

import runpy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from builders.experiment import build
from tables.base import Cell, Model, Setting
from training.checkpoint import CheckpointError
from training.restore import saved_steps
from training.run import run_training

HERE = Path(__file__).resolve().parents[1]


def config_of(model: Model, *changes: Mapping[str, Any]) -> ConfigDict:
    """Return the config of a model, with further changes by flat keys."""
    config = runpy.run_path(str(HERE / model.config))["get_config"]()
    for some in (model.changes, *changes):
        config.update_from_flattened_dict(dict(some))
    return config


def config_of_cell(cell: Cell, setting: Setting, seed: int = 0) -> ConfigDict:
    more = {"eval.num_samples": setting.samples, "eval.seed": seed}
    return config_of(cell.model, setting.changes, cell.changes, more)


def make_ready(model: Model, scale: str, models: Path) -> Path:
    """Return the workdir of a model; at laptop scale, first train the model to its last step.

    Raises:
        CheckpointError: at paper scale, if the workdir has no checkpoint.
    """
    workdir, config = models / model.name, config_of(model)
    steps = saved_steps(workdir)
    if steps and (scale == "paper" or steps[-1] >= config.training.n_iters):
        return workdir
    if scale == "paper":
        raise CheckpointError(
            f"There is no checkpoint in {workdir}; import the released one with `python -m "
            f"tools.import_score_sde CHECKPOINT --config {model.config} --workdir {workdir}`."
        )
    config.training.progress = False
    run_training(build(config), workdir)
    return workdir
