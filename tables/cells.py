"""The figures of a cell of a table, kept on disk, so that a stopped table can be resumed.

A finished cell is a JSON file with a digest of everything that the figures depend on. An unfinished
cell keeps its samples by batch (`evaluation/store/batches.py`); they are deleted once the cell is
finished.
"""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from builders.experiment import Experiment, build
from evaluation.metrics.frechet import Moments, frechet_distance
from evaluation.metrics.inception_score import inception_score
from evaluation.metrics.table import METRICS
from evaluation.report.images import of_levels, of_source
from evaluation.spaces.judges import Judge, judges
from evaluation.store.batches import digest, read_json
from evaluation.store.bits_store import make_plan as bits_plan
from evaluation.store.gather import MOMENTS, Gathered, gather
from evaluation.store.sample_store import make_plan as sample_plan
from evaluation.tasks.bits import data_bits
from evaluation.tasks.sampling import stored_samples
from tables.base import Cell, Setting
from tables.models import config_of_cell
from training.restore import restore_ema
from whole_files import put

SPLITS = 10  # of an Inception score, as published
# Keys of `eval` on which the feature space depends.
OF_SPACE = ("features", "classifier", "weights", "resize")


class References:
    """Feature spaces, and the training images' moments in them; each is computed once."""

    def __init__(self):
        self.known: dict[tuple, tuple[Judge, Moments]] = {}

    def of(self, experiment: Experiment) -> tuple[Judge, Moments]:
        """Return the first space of `eval.features`, and the training images' moments in it."""
        section = experiment.config.eval
        key = (experiment.train.fingerprint, *(section[name] for name in OF_SPACE))
        if key not in self.known:
            judge, images = judges(experiment)[0], of_source(experiment.train)
            seen = gather(judge.space, images, {MOMENTS}, in_blocks=False)
            self.known[key] = judge, seen.moments()
        return self.known[key]


def finished(
    cell: Cell, setting: Setting, workdir: Path, folder: Path, references: References
) -> dict[str, Any]:
    """Return the result of a cell, computed only if `folder` does not hold it yet.

    Returns:
        For each figure in `cell.published` its mean over seeds, `<figure>_std` and all
        `<figure>_values`; further `nfe`, `samples` and `seeds`. `frechet_std` and
        `inception_score_std` are standard deviations over seeds, None for one seed. `bits`
        is the mean over test images in bits/dim, and `bits_std` its standard error.
    """
    experiment = build(config_of_cell(cell, setting))
    step, params = restore_ema(experiment, workdir)
    file = folder / f"{slug(cell)}.json"
    plan = plan_of(cell, setting, experiment, params, step)
    there = read_json(file)
    if there.get("plan") == plan:
        return there
    folder.mkdir(parents=True, exist_ok=True)
    result: dict[str, Any] = {"row": cell.row, "column": cell.column, "step": step, "plan": plan}
    if "bits" in cell.published:
        result |= bits_of(experiment, params, step, folder / slug(cell))
    if cell.published.keys() - {"bits"}:
        result |= samples_of(cell, setting, params, step, folder / slug(cell), references)
    put(file, json.dumps(result, indent=1) + "\n")
    shutil.rmtree(folder / slug(cell), ignore_errors=True)
    return result


def slug(cell: Cell) -> str:
    return re.sub("[^a-z0-9]+", "_", f"{cell.row} {cell.column}".lower()).strip("_")


def plan_of(cell: Cell, setting: Setting, experiment: Experiment, params: Any, step: int) -> str:
    """Return the digest of everything that the figures of a cell depend on."""
    plan = {"figures": sorted(cell.published), "samples": setting.samples, "seeds": setting.seeds}
    plan["eval"] = {name: experiment.config.eval[name] for name in OF_SPACE}
    if "bits" in cell.published:
        plan["bits"] = bits_plan(experiment, params, experiment.test, step)
    return digest({**plan, "of_samples": sample_plan(experiment, params, step)})


def bits_of(experiment: Experiment, params: Any, step: int, folder: Path) -> dict[str, Any]:
    bits = data_bits(experiment, params, experiment.test, folder / "bits", step)
    values = [float(f"{value:.7g}") for value in bits.per_example]
    return {
        "bits": bits.mean,
        "bits_std": bits.stderr,
        "bits_nfe": bits.nfe,
        # One value per image. All cells use the same dequantisation, so that a comparison of two
        # cells can pair the images.
        "bits_values": [value if np.isfinite(value) else None for value in values],
    }


def samples_of(
    cell: Cell, setting: Setting, params: Any, step: int, folder: Path, references: References
) -> dict[str, Any]:
    """Return the Frechet distance to the training images and the Inception score, per seed."""
    values: dict[str, list[float]] = {name: [] for name in cell.published if name != "bits"}
    for seed in setting.seeds:
        experiment = build(config_of_cell(cell, setting, seed))
        judge, reference = references.of(experiment)
        place = folder / f"seed_{seed}"
        found = stored_samples(experiment, params, place, step, setting.samples)
        levels = found["x"][~found["failed"]]
        images, needs = (
            of_levels(levels, experiment.scaler.levels),
            {METRICS[n].needs for n in values},
        )
        seen = gather(judge.space, images, needs, in_blocks=False)
        for name, column in values.items():
            column.append(MEASURES[name](seen, reference))
    result: dict[str, Any] = {"samples": setting.samples, "seeds": list(setting.seeds)}
    for name, column in values.items():
        spread = float(np.std(column, ddof=1)) if len(column) > 1 else None
        result |= {name: float(np.mean(column)), f"{name}_std": spread, f"{name}_values": column}
    result |= {"nfe": float(found["nfe"].mean()), "failed": int(found["failed"].sum())}
    return {**result, "space": judge.space.id}


# Each measure takes what was gathered from the samples, and the moments of the training images.
MEASURES: dict[str, Callable[[Gathered, Moments], float]] = {
    "frechet": lambda seen, reference: frechet_distance(seen.moments(), reference),
    # Mean over splits, as published.
    "inception_score": lambda seen, _: (
        inception_score(seen.features.probabilities, SPLITS).split_mean
    ),
}
