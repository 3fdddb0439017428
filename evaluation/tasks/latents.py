"""The modes that work on codes (`codes.py`): `--mode encode`, `decode` and `interpolate`.

All files are written to `latents/step_<step>` of the workdir.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from data import Source
from evaluation.report.images import to_levels
from evaluation.report.pictures import grid, save_png
from evaluation.tasks.codes import (
    arrived,
    decode_codes,
    dequantised,
    encode_data,
    newest,
    read_codes,
)
from evaluation.tasks.evaluate import strict
from evaluation.tasks.sampling import pictured
from likelihood.latents import round_trip_error, temperature
from parallel.processes import is_lead
from samplers.around.interpolation import walk
from whole_files import put, put_arrays

SHOWN = 16  # examples or walks in a figure


def run_encode(experiment, params: Any, workdir: Path, step: int, seeds: range) -> dict[str, Any]:
    """Write `<split>/latents_<first>-<last>.npz`, `.json` and, for images, `.png`.

    The npz has `z` (n, ...) in units of the prior's std, `indices` (n,), `labels` (n,) if the data
    have any, `mean` and `variance` of z over the examples, `split` and `step`. Failed solves are
    left out. The png shows the examples, their codes from -3 (black) to 3, and the decoded codes.

    Raises:
        ValueError: for examples that the split does not have, or if every solve failed.
    """
    source, indices = examples(experiment, seeds)
    x = dequantised(experiment, source.fetch(indices), indices)
    codes = encode_data(experiment, params, x)
    back = decode_codes(experiment, params, codes.z)
    kept = ~codes.failed
    z, alone = codes.z[kept], kept.sum() < 2
    arrays = {
        "z": z,
        "indices": indices[kept],
        "mean": z.mean(axis=0),
        "variance": np.full_like(z[0], np.nan) if alone else z.var(axis=0, ddof=1),
        "split": source.split,
        "step": step,
    }
    if source.labels is not None:
        arrays["labels"] = source.labels[indices[kept]]
    error = np.asarray(round_trip_error(x, back.x))
    report = encode_report(experiment, codes, back, error, arrays)
    first, last = (to_levels(experiment.bits_scaler, v[:SHOWN])[1] for v in (x, back.x))
    picture = np.concatenate([first, code_picture(codes.z[:SHOWN]), last])
    folder = workdir / "latents" / f"step_{step}" / experiment.config.latents.dataset
    stem = f"latents_{seeds.start}-{seeds.stop - 1}"
    write(experiment, folder, stem, arrays, picture, len(first))
    if is_lead():
        put(folder / f"{stem}.json", json.dumps(strict(report), indent=2) + "\n")
    return {**report, "folder": str(folder)}


def encode_report(experiment, codes, back, error: np.ndarray, arrays: dict) -> dict[str, Any]:
    """The figures of an encoding, with their values for codes from N(0, I) where these are known.

    `round_trip.rms` is in units of the model, `rms_levels` in levels of the data (None for
    continuous data). `norm` is the mean of `|z| / sqrt(D)`. `mean` and `variance` summarise the
    mean and the variance of each dimension over the examples; the npz has them in full.
    """
    z, scaler = arrays["z"], experiment.bits_scaler
    n, dims = len(z), z[0].size
    rms = float(np.sqrt(np.nanmean(error**2)))
    return {
        "step": arrays["step"],
        "data": {"split": arrays["split"], "n": len(codes.failed)},
        "nfe": {"encode": float(codes.nfe.mean()), "decode": float(back.nfe)},
        "failed": {"encode": int(codes.failed.sum()), "decode": int(back.failed.sum())},
        "round_trip": {
            "rms": rms,
            "rms_levels": rms / float(np.exp(scaler.log_volume())) if scaler.levels else None,
            "worst": float(np.nanmax(error)),
        },
        "norm": float(np.linalg.norm(z.reshape(n, -1), axis=1).mean() / dims**0.5),
        "mean": {"rms": rms_of(arrays["mean"]), "rms_of_normal": n**-0.5},
        "variance": {
            "mean": float(arrays["variance"].mean()),
            "std": float(arrays["variance"].std()),
            "std_of_normal": (2.0 / (n - 1)) ** 0.5 if n > 1 else None,
        },
        "likelihood": experiment.settings.likelihood.to_dict(),
    }


def run_decode(experiment, params: Any, workdir: Path, step: int, seeds: range) -> dict[str, Any]:
    """Decode all codes of a file, multiplied by `latents.temperature`; `seeds` are ignored.

    The codes are those of `latents.file`, or of the latest `--mode encode` if it is empty. Writes
    `decoded_<file>_tau_<temperature>.npz` (`arr_0` as in `--mode sample`, `indices` if the file has
    them, `temperature`) and `.png`. Failed solves are left out.

    Raises:
        ValueError: the file has no codes of these data, or every solve failed.
    """
    del seeds
    section = experiment.config.latents
    file = Path(section.file) if section.file else newest(workdir, step)
    codes = read_codes(file, experiment.shape)
    z = np.asarray(temperature(codes["z"], section.temperature))
    result = decode_codes(experiment, params, z, section.denoise)
    kept = arrived(result.failed, experiment.config.likelihood)
    levels, unit = to_levels(experiment.bits_scaler, result.x[kept])
    arrays = {"arr_0": levels, "temperature": section.temperature}
    if "indices" in codes:
        arrays["indices"] = codes["indices"][kept]
    stem = f"decoded_{file.stem.removeprefix('latents_')}_tau_{section.temperature:g}"
    folder = workdir / "latents" / f"step_{step}"
    write(experiment, folder, stem, arrays, unit[:256], None)
    told = {"samples": len(z), "nfe": float(result.nfe), "failed": int(result.failed.sum())}
    return {**told, "file": str(file), "folder": str(folder)}


def run_interpolate(
    experiment, params: Any, workdir: Path, step: int, seeds: range
) -> dict[str, Any]:
    """Interpolate from the code of each example to that of the next, and decode the nodes.

    `latents.blend` names the interpolation. Writes `walk_<blend>_<first>-<last>.npz` and, for
    images, `.png` with a row for each pair. The npz has `arr_0` (pairs, nodes, ...) as in `--mode
    sample`, `pairs` (pairs, 2) of example numbers, `weights` (nodes,) and `failed` (pairs, nodes);
    `arr_0` has no meaning where a solve failed.

    Raises:
        ValueError: for a single example, for examples that the split does not have, or if every
            solve failed.
    """
    section = experiment.config.latents
    source, indices = examples(experiment, seeds)
    if len(indices) < 2:
        raise ValueError(
            f"--seeds has the one example {seeds.start}; a walk goes from each example to the "
            "next: give two or more, such as 0-7."
        )
    codes = encode_data(experiment, params, dequantised(experiment, source.fetch(indices), indices))
    nodes = walk(section.blend, codes.z[:-1], codes.z[1:], section.nodes)
    z = np.swapaxes(np.asarray(nodes), 0, 1)  # (pairs, nodes, ...)
    # If the encoding of one end failed, all nodes of the pair fail.
    result = decode_codes(experiment, params, z.reshape(-1, *experiment.shape), section.denoise)
    arrived(result.failed, experiment.config.likelihood)
    levels, unit = (v.reshape(z.shape) for v in to_levels(experiment.bits_scaler, result.x))
    arrays = {
        "arr_0": levels,
        "pairs": np.stack([indices[:-1], indices[1:]], axis=1),
        "weights": np.linspace(0.0, 1.0, section.nodes),
        "failed": result.failed.reshape(z.shape[:2]),
    }
    stem = f"walk_{section.blend}_{seeds.start}-{seeds.stop - 1}"
    picture = unit[:SHOWN].reshape(-1, *experiment.shape)
    folder = workdir / "latents" / f"step_{step}"
    write(experiment, folder, stem, arrays, picture, section.nodes)
    told = {"pairs": len(z), "nodes": section.nodes, "nfe": float(result.nfe)}
    return {**told, "failed": int(result.failed.sum()), "folder": str(folder)}


def examples(experiment, seeds: range) -> tuple[Source, np.ndarray]:
    """Return the split that `latents.dataset` names, and the numbers of the examples.

    Raises:
        ValueError: the split has fewer examples.
    """
    name = experiment.config.latents.dataset
    source = {"test": experiment.test, "train": experiment.train}[name]
    if seeds.stop > source.size:
        raise ValueError(
            f"--seeds asks for example {seeds.stop - 1}, and the {name} split of {source.name} has "
            f"{source.size}, of numbers 0 to {source.size - 1}; take some of these, such as "
            f"--seeds=0-{source.size - 1}."
        )
    return source, np.asarray(seeds)


def code_picture(z: np.ndarray) -> np.ndarray:
    """Map codes from [-3, 3] standard deviations to grey values or colours in [0, 1]."""
    return (z + 3.0) / 6.0


def rms_of(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(values**2)))


def write(experiment, folder: Path, stem: str, arrays: dict, unit, columns: int | None) -> None:
    """Write the arrays, and a picture if the data are images; on the lead alone."""
    if not is_lead():
        return
    folder.mkdir(parents=True, exist_ok=True)
    put_arrays(folder / f"{stem}.npz", **arrays)
    if pictured(experiment):
        save_png(folder / f"{stem}.png", grid(unit, columns=columns))
