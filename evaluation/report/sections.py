"""Parts of a report: data, bits/dim, samples. Bits/dim and samples keep their finished batches."""

import time
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import numpy as np

from evaluation.metrics.compare import told
from evaluation.report.images import Images, of_levels, of_source, shown
from evaluation.report.pictures import grid, save_png
from evaluation.tasks.asked import measured, too_few
from evaluation.tasks.bits import data_bits
from evaluation.tasks.bounds import bound_name, noise_in_levels
from evaluation.tasks.prepared import Prepared
from evaluation.tasks.sampling import pictured, stored_samples
from parallel.processes import is_lead
from whole_files import put_arrays


def about(experiment, params: Any, step: int) -> dict[str, Any]:
    """The facts at the head of every report: checkpoint, run, data and library versions."""
    train = experiment.train
    return {
        "step": step,
        "versions": versions(),
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(params)),
        "seed": experiment.config.seed,
        "ema_rate": experiment.config.training.ema_rate,
        "data": {
            "name": train.name,
            "train": train.size,
            "test": experiment.test.size,
            "levels": train.levels,
            "fingerprint": train.fingerprint,
        },
    }


def bits_section(prepared: Prepared, params, workdir: Path, step: int, nfe: dict) -> dict[str, Any]:
    """Bits/dim of the split that `eval.bpd_dataset` names.

    Finished batches are kept in `bits_<step>_<split>/`, and those of a further bound in
    `bits_<step>_<split>_<bound>/`. A second call computes only the missing batches.

    Args:
        nfe: the mean evaluations of a likelihood are added to it, under "likelihood".
    """
    experiment, config = prepared.experiment, prepared.experiment.config.eval
    split, folder = config.bpd_dataset, workdir / f"bits_{step}_{config.bpd_dataset}"
    source, program = prepared.split(split), prepared.batch_bits
    bits = data_bits(experiment, params, source, folder, step, "flow", program("flow"))
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
        more = data_bits(experiment, params, source, place, step, name, program(name))
        section["bounds"][name] = {
            "mean": more.mean,
            "stderr": more.stderr,
            "n": more.n,
            "failed": more.failed,
            "nfe": more.nfe,
            "bound": bound_name(name),
            "table": f"{place.name}.csv",
        }
    if prepared.mixture is not None:
        baseline, chosen = prepared.mixture_bits, prepared.mixture.candidate
        section.update(
            mixture=baseline.value,
            mixture_stderr=baseline.stderr,
            mixture_form=f"{chosen.components} x {chosen.covariance}, reg {chosen.reg:g}",
        )
    return section


def sampling_section(prepared: Prepared, params, workdir: Path, report: dict) -> float:
    """Add samples, their pictures and their distances to `report`; return the seconds of drawing.

    Finished batches are kept in `samples_<step>/`; a second call draws only the missing ones.
    """
    experiment, step = prepared.experiment, report["step"]
    config, folder = experiment.config.eval, workdir / f"samples_{step}"
    begin = time.perf_counter()
    found = stored_samples(experiment, params, folder, step, config.num_samples, prepared.drawing)
    seconds = time.perf_counter() - begin
    report["nfe"]["sampling"] = float(found["nfe"].mean())
    report["samples"] = {
        "n": config.num_samples,
        "seeds": [config.seed, 0, config.num_samples - 1],
        "failed": int(np.sum(found["failed"])),
        "quantisation": quantisation(experiment.scaler),
        "denoised": experiment.config.sampling.denoise,
        "eps": experiment.config.sampling.eps,
    }
    # A failed solve has no sample. It is counted above and left out of everything below.
    levels = found.pop("x")
    if found["failed"].any():
        levels = levels[~found["failed"]]
    if is_lead():
        put_arrays(workdir / "samples.npz", arr_0=levels)
    if not measured(experiment):
        return seconds
    samples = of_levels(levels, experiment.scaler.levels)
    if pictured(experiment):
        report["pictures"] = pictures(prepared, params, samples, workdir) if is_lead() else {}
    if said := too_few(config, len(samples)):
        print(said)
        return seconds
    report["spaces"] = spaces_section(prepared, samples)
    for space in report["spaces"]:
        # The report repeats the Frechet distance of the first space at its top level.
        if "frechet" in space:
            report.setdefault("frechet", {**space["frechet"], "space": space["id"]})
    return seconds


def spaces_section(prepared: Prepared, samples: Images) -> list[dict[str, Any]]:
    """For each feature space: its facts, and the metrics of samples, real images and baseline."""
    found = []
    for k, judge in enumerate(prepared.judges):
        comparison = prepared.comparison(k)
        measured = {"samples": comparison.measure(samples), **prepared.beside(k, len(samples))}
        found.append({**judge.facts, **told(comparison, measured)})
    return found


def pictures(prepared: Prepared, params, samples: Images, workdir: Path) -> dict[str, str]:
    """Write the pictures of a report; return the file name of each by its key."""
    experiment = prepared.experiment
    most = shown(100, experiment.shape)
    save_png(workdir / "samples.png", grid(samples.first(most)))
    save_png(workdir / "data.png", grid(of_source(experiment.test, most).first(most)))
    written = {"samples": "samples.png", "real": "data.png"}
    if experiment.config.sampling.method == "pc":
        prepared.trajectory(params, workdir / "trajectory.png")
        written["trajectory"] = "trajectory.png"
    return written


def quantisation(scaler) -> str:
    """Describe how samples were converted to levels."""
    if scaler.levels == 0:
        return "none"
    return f"{'bins of' if scaler.dequantize else 'rounded to'} {scaler.levels} levels"


def versions() -> dict[str, str]:
    """Versions of the libraries that compute the numbers."""
    return {name: metadata.version(name) for name in ("jax", "flax", "diffrax", "numpy", "scipy")}
