"""`--mode eval`: all figures and pictures of a checkpoint, in `report.json` and `report.html`."""

import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.report.page import write_page
from evaluation.report.rows import figure_rows
from evaluation.report.sections import about, bits_section, sampling_section
from evaluation.tasks.classifier import make_by_level
from evaluation.tasks.loss import make_eval_loss
from evaluation.tasks.noise_level import make_held_out
from evaluation.tasks.prepared import Prepared
from parallel.processes import is_lead
from whole_files import put


def evaluate(experiment, *checkpoint) -> dict[str, Any]:
    """Return the report of one checkpoint; arguments, files and errors as in `make_evaluation`."""
    return make_evaluation(experiment)(*checkpoint)


def make_evaluation(experiment) -> Callable[..., dict[str, Any]]:
    """`params, workdir, step, metrics, train_seconds -> report`, for several checkpoints.

    Compiled programs, reference features and the mixture are made once, at the first checkpoint.
    Each call evaluates `params`, which should be the averaged parameters, and writes
    `report_<step>.json`, `report.json` and `report.html`.

    Raises:
        ValueError, FileNotFoundError: as `Prepared`, before anything long is computed.
    """
    if experiment.levels is not None:
        held_out = make_held_out(experiment)
        measured = lambda params: {"noise_level": held_out(params)._asdict()}
    elif experiment.logits is not None:
        by_level = make_by_level(experiment, experiment.test, experiment.config.eval.seed)
        measured = lambda params: {"classifier": [row._asdict() for row in by_level(params)]}
    else:
        return partial(report_of, Prepared(experiment))
    return partial(report_of_classifier, experiment, make_eval_loss(experiment), measured)


def report_of(
    prepared: Prepared,
    params: Any,
    workdir: Path,
    step: int,
    metrics: list[dict],
    train_seconds: float,
) -> dict[str, Any]:
    """The report of a score model.

    `seconds.sample` is the time of drawing the samples, with compilation. `seconds.eval` is the
    time of everything else in this function.
    """
    experiment, config = prepared.experiment, prepared.experiment.config
    begin = time.perf_counter()
    report: dict[str, Any] = {
        **about(experiment, params, step),
        "likelihood": experiment.settings.likelihood.to_dict(),
        "sampling": experiment.settings.sampling.to_dict(),
        "guidance": experiment.settings.guidance.to_dict(),
        "nfe": {},
    }
    if config.eval.enable_loss:
        report["eval_loss"] = prepared.eval_loss(params)
    if config.eval.enable_bpd:
        report["bits_per_dim"] = bits_section(prepared, params, workdir, step, report["nfe"])
    sample_seconds = 0.0
    if config.eval.enable_sampling:
        sample_seconds = sampling_section(prepared, params, workdir, report)
    report["seconds"] = {
        "train": train_seconds,
        "sample": sample_seconds,
        "eval": time.perf_counter() - begin - sample_seconds,
    }
    write(experiment, workdir, step, metrics, report)
    return report


def report_of_classifier(
    experiment,
    eval_loss: Callable[[Any], float],
    measured: Callable[[Any], dict[str, Any]],
    params: Any,
    workdir: Path,
    step: int,
    metrics: list[dict],
    train_seconds: float,
) -> dict[str, Any]:
    """The report of a network that classifies: its loss and what `measured` returns."""
    begin = time.perf_counter()
    report = {
        **about(experiment, params, step),
        "eval_loss": eval_loss(params),
        **measured(params),
        "nfe": {},
    }
    report["seconds"] = {"train": train_seconds, "eval": time.perf_counter() - begin}
    write(experiment, workdir, step, metrics, report)
    return report


def write(experiment, workdir: Path, step: int, metrics: list[dict], report: dict) -> None:
    """Write `report_<step>.json`, `report.json` and the page `report.html`, on the lead alone."""
    if not is_lead():
        return
    text = json.dumps(strict(report), indent=2, allow_nan=False) + "\n"
    put(workdir / f"report_{step}.json", text)
    put(workdir / "report.json", text)
    # Only pictures of this checkpoint; the workdir may hold pictures of earlier ones.
    pictures = {key: workdir / name for key, name in report.get("pictures", {}).items()}
    curve = [{**row, "loss": row.get("training_loss")} for row in metrics]
    page = {
        "name": f"{report['data']['name']}, {experiment.config.sde.name} law",
        "facts": {
            "step": step,
            "parameters": report["parameters"],
            "seed": report["seed"],
            "training": f"{report['seconds']['train']:.0f} s",
        },
        "rows": figure_rows(report),
        "config": experiment.settings.to_dict(),
    }
    write_page(workdir / "report.html", page, pictures, curve)


def strict(tree: Any) -> Any:
    """Replace every nan and infinity by None, since JSON has neither."""
    if isinstance(tree, dict):
        return {key: strict(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [strict(value) for value in tree]
    return None if isinstance(tree, float) and not np.isfinite(tree) else tree
