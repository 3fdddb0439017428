"""Parts of a report: data, bits/dim, samples. Those that take long keep what is finished."""

import time
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import numpy as np

from evaluation.bits import data_bits
from evaluation.bounds import bound_name, noise_in_levels
from evaluation.compare import distances
from evaluation.images import Images, of_array, of_levels, of_source
from evaluation.pictures import grid, save_png
from evaluation.sampling import pictured, stored_samples, trajectory
from parallel.processes import is_lead
from whole_files import put_arrays


def about(experiment, params: Any, step: int) -> dict[str, Any]:
    """What any report says first: of the checkpoint, the run, the data and what computes."""
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


def sampling_section(experiment, params, mixture, chosen, workdir: Path, report: dict) -> float:
    """Samples, their pictures and their distances; returns the seconds spent drawing.

    Finished batches are kept in `samples_<step>/`, so a second call draws what is missing.
    """
    config, step = experiment.config.eval, report["step"]
    begin = time.perf_counter()
    found = stored_samples(
        experiment, params, workdir / f"samples_{step}", step, config.num_samples
    )
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
    # A failed solve has no sample: it is counted above, and left out of everything below.
    levels = found["x"][~found["failed"]]
    if is_lead():
        put_arrays(workdir / "samples.npz", arr_0=levels)
    if not pictured(experiment):
        return seconds
    samples, test = of_levels(levels, experiment.scaler.levels), of_source(experiment.test)
    report["pictures"] = pictures(experiment, params, samples, test, workdir) if is_lead() else {}
    images = {"samples": samples, "train": of_source(experiment.train, len(samples))}
    if mixture is not None:
        images["mixture"] = of_array(mixture.sample(len(samples), seed=experiment.config.seed))
    report["spaces"] = []
    for space, facts, statistics in chosen:
        measured = distances(space, images, test, config.metrics, statistics)
        # The first space is the headline; the others are told in full below it.
        if "frechet" in measured:
            report.setdefault("frechet", {**measured["frechet"], "space": facts["id"]})
        report["spaces"].append({**facts, **measured})
    return seconds


def pictures(experiment, params, samples: Images, test: Images, workdir: Path) -> dict[str, str]:
    """Writes them; what each shows, and its file."""
    save_png(workdir / "samples.png", grid(samples.first(100)))
    save_png(workdir / "data.png", grid(test.first(100)))
    written = {"samples": "samples.png", "real": "data.png"}
    if experiment.config.sampling.method == "pc":
        trajectory(experiment, params, workdir / "trajectory.png")
        written["trajectory"] = "trajectory.png"
    return written


def quantisation(scaler) -> str:
    """How samples became levels."""
    if scaler.levels == 0:
        return "none"
    return f"{'bins of' if scaler.dequantize else 'rounded to'} {scaler.levels} levels"


def versions() -> dict[str, str]:
    """Of what computes the numbers."""
    return {name: metadata.version(name) for name in ("jax", "flax", "diffrax", "numpy", "scipy")}
