"""`--mode eval`: every number and picture of a checkpoint, in `report.json` and `report.html`."""

import json
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from evaluation.bits import data_bits
from evaluation.bounds import bound_name, noise_in_levels
from evaluation.classifier import by_level
from evaluation.compare import distances, spaces_for, unit_images
from evaluation.loss import make_eval_loss
from evaluation.mixture import fit_mixture
from evaluation.page import write_page
from evaluation.pictures import grid, save_png
from evaluation.rows import figure_rows
from evaluation.sampling import draw, pictured, to_levels, trajectory


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
    spaces = spaces_for(experiment, unit_images(experiment.train)) if shown else []
    report: dict[str, Any] = {
        "step": step,
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(params)),
        "seed": config.seed,
        "ema_rate": config.training.ema_rate,
        "data": data_section(experiment),
        "likelihood": config.likelihood.to_dict(),
        "sampling": config.sampling.to_dict(),
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
        sample_seconds = sampling_section(experiment, params, mixture, spaces, workdir, report)
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
        "step": step,
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(params)),
        "seed": experiment.config.seed,
        "ema_rate": experiment.config.training.ema_rate,
        "data": data_section(experiment),
        "eval_loss": make_eval_loss(experiment)(params),
        "classifier": [level._asdict() for level in levels],
        "nfe": {},
    }
    report["seconds"] = {"train": train_seconds, "eval": time.perf_counter() - begin}
    write(experiment, workdir, step, metrics, report)
    return report


def data_section(experiment) -> dict[str, Any]:
    """What a report says of the data."""
    return {
        "name": experiment.train.name,
        "train": experiment.train.size,
        "test": experiment.test.size,
        "levels": experiment.train.levels,
        "fingerprint": experiment.train.fingerprint,
    }


def bits_section(
    experiment, params, mixture, workdir: Path, step: int, nfe: dict
) -> dict[str, Any]:
    """Bits/dim of the test split (or of the one that `eval.bpd_dataset` names).

    Finished batches are kept in `bits_<step>_<split>/`, so a second call computes what is missing;
    those of a further bound in `bits_<step>_<split>_<bound>/`.
    """
    config = experiment.config.eval
    split, folder = config.bpd_dataset, workdir / f"bits_{step}_{config.bpd_dataset}"
    source = {"test": experiment.test, "train": experiment.train}[split]
    bits = data_bits(experiment, params, source, folder, step)
    nfe["likelihood"] = bits.nfe
    section = {
        "mean": bits.mean,
        "stderr": bits.stderr,
        "probe_stderr": bits.probe_stderr,
        "split": split,
        "n": bits.n,
        "left_out": source.size - bits.n,
        "passes": config.bpd_repeats,
        "k": config.bpd_samples,
        "bound": bound_name("flow", config.bpd_samples),
        "failed": bits.failed,
        "table": f"{folder.name}.csv",
        "offset": -experiment.bits_scaler.log_volume() / np.log(2.0),
        "eps": experiment.config.likelihood.eps,
        "noise_at_eps": noise_in_levels(experiment),
        "bounds": {},
    }
    for name in config.bounds:
        place = folder.with_name(f"{folder.name}_{name}")
        more = data_bits(experiment, params, source, place, step, name)
        section["bounds"][name] = {
            "mean": more.mean,
            "stderr": more.stderr,
            "n": more.n,
            "failed": more.failed,
            "nfe": more.nfe,
            "bound": bound_name(name),
            "table": f"{place.name}.csv",
        }
    if mixture is not None:
        raw = source.fetch(np.arange(source.size))
        baseline = mixture.bits_per_dim(raw, seed=experiment.config.seed)
        chosen = mixture.candidate
        section.update(
            mixture=baseline.value,
            mixture_stderr=baseline.stderr,
            mixture_form=f"{chosen.components} x {chosen.covariance}, reg {chosen.reg:g}",
        )
    return section


def sampling_section(experiment, params, mixture, spaces, workdir: Path, report: dict) -> float:
    """Samples, their pictures and their distances; returns the seconds spent drawing."""
    config = experiment.config.eval
    begin = time.perf_counter()
    result = draw(experiment, params, range(config.num_samples), config.seed)
    seconds = time.perf_counter() - begin
    report["nfe"]["sampling"] = float(result.nfe)
    report["samples"] = {
        "n": config.num_samples,
        "seeds": [config.seed, 0, config.num_samples - 1],
        "failed": int(np.sum(result.failed)),
    }
    # A failed solve has no sample: it is counted above, and left out of everything below.
    levels, unit = to_levels(experiment, result.x[~result.failed])
    np.savez(workdir / "samples.npz", arr_0=levels)
    if not pictured(experiment):
        return seconds
    save_png(workdir / "samples.png", grid(unit[:100]))
    save_png(workdir / "data.png", grid(unit_images(experiment.test, 100)))
    report["pictures"] = {"samples": "samples.png", "real": "data.png"}
    if experiment.config.sampling.method == "pc":
        trajectory(experiment, params, workdir / "trajectory.png")
        report["pictures"]["trajectory"] = "trajectory.png"
    images = {"samples": unit, "train": unit_images(experiment.train, len(unit))}
    if mixture is not None:
        images["mixture"] = mixture.sample(len(unit), seed=experiment.config.seed)
    test = unit_images(experiment.test)
    report["spaces"] = []
    for space, facts in spaces:
        measured = distances(space, images, test)
        # The first space is the headline; the others are told in full below it.
        report.setdefault("frechet", {**measured["frechet"], "space": facts["id"]})
        report["spaces"].append({**facts, **measured})
    return seconds


def write(experiment, workdir: Path, step: int, metrics: list[dict], report: dict) -> None:
    """The report as JSON, twice, and as a page."""
    text = json.dumps(strict(report), indent=2, allow_nan=False) + "\n"
    (workdir / f"report_{step}.json").write_text(text)
    (workdir / "report.json").write_text(text)
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
        "config": experiment.config.to_dict(),
    }
    write_page(workdir / "report.html", page, pictures, curve)


def strict(tree: Any) -> Any:
    """The same with null for every nan and infinity, which JSON does not have."""
    if isinstance(tree, dict):
        return {key: strict(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [strict(value) for value in tree]
    return None if isinstance(tree, float) and not np.isfinite(tree) else tree
