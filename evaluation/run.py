"""`--mode eval`: every number and picture of a checkpoint, in `report.json` and `report.html`."""

import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.classifier import by_level
from evaluation.compare import judges
from evaluation.loss import make_eval_loss
from evaluation.mixture import fit_mixture
from evaluation.page import write_page
from evaluation.rows import figure_rows
from evaluation.sampling import pictured
from evaluation.sections import about, bits_section, sampling_section
from parallel.processes import is_lead
from whole_files import put


def evaluate(
    experiment, params: Any, workdir: Path, step: int, metrics: list[dict], train_seconds: float
) -> dict[str, Any]:
    """Evaluates averaged parameters; writes `report_<step>.json`, `report.json`, `report.html`.

    `seconds.sample` is the time of drawing the samples, compilation included; `seconds.eval` that
    of everything else here.

    Raises:
        ValueError: where bits/dim is asked of continuous data, or a feature space does not fit.
    """
    config, begin = experiment.config, time.perf_counter()
    if experiment.logits is not None:
        return evaluate_classifier(experiment, params, workdir, step, metrics, train_seconds)
    # What can be refused is refused before hours are spent on the rest.
    if config.eval.enable_bpd and not experiment.train.levels:
        raise ValueError(
            "Bits/dim is not defined for continuous data; pass --config.eval.enable_bpd=false."
        )
    shown = config.eval.enable_sampling and pictured(experiment)
    chosen = judges(experiment) if shown else []
    report: dict[str, Any] = {
        **about(experiment, params, step),
        "likelihood": experiment.settings.likelihood.to_dict(),
        "sampling": experiment.settings.sampling.to_dict(),
        "guidance": config.guidance.to_dict(),
        "nfe": {},
    }
    mixture = None
    if config.eval.mixture and experiment.train.levels:
        raw = experiment.train.fetch(np.arange(experiment.train.size))
        mixture = fit_mixture(raw, experiment.train.levels, seed=config.seed)
    if config.eval.enable_loss:
        report["eval_loss"] = make_eval_loss(experiment)(params)
    if config.eval.enable_bpd:
        report["bits_per_dim"] = bits_section(
            experiment, params, mixture, workdir, step, report["nfe"]
        )
    sample_seconds = 0.0
    if config.eval.enable_sampling:
        sample_seconds = sampling_section(experiment, params, mixture, chosen, workdir, report)
    report["seconds"] = {
        "train": train_seconds,
        "sample": sample_seconds,
        "eval": time.perf_counter() - begin - sample_seconds,
    }
    write(experiment, workdir, step, metrics, report)
    return report


def evaluate_classifier(
    experiment, params: Any, workdir: Path, step: int, metrics: list[dict], train_seconds: float
) -> dict[str, Any]:
    """The same for a classifier: loss, and accuracy by noise level on the test split."""
    begin = time.perf_counter()
    levels = by_level(experiment, params, experiment.test, experiment.config.eval.seed)
    report = {
        **about(experiment, params, step),
        "eval_loss": make_eval_loss(experiment)(params),
        "classifier": [level._asdict() for level in levels],
        "nfe": {},
    }
    report["seconds"] = {"train": train_seconds, "eval": time.perf_counter() - begin}
    write(experiment, workdir, step, metrics, report)
    return report


def write(experiment, workdir: Path, step: int, metrics: list[dict], report: dict) -> None:
    """The report as JSON, twice, and as a page."""
    if not is_lead():
        return
    text = json.dumps(strict(report), indent=2, allow_nan=False) + "\n"
    put(workdir / f"report_{step}.json", text)
    put(workdir / "report.json", text)
    # Those of this checkpoint: a picture of an earlier one may lie in the workdir too.
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
    """The same with null for every nan and infinity, which JSON does not have."""
    if isinstance(tree, dict):
        return {key: strict(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [strict(value) for value in tree]
    return None if isinstance(tree, float) and not np.isfinite(tree) else tree
