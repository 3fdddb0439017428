"""What is made of codes (`codes.py`): `--mode encode`, `decode` and `interpolate`.

All is written below `latents/step_<step>` of the workdir.
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

SHOWN = 16  # examples in a figure, or walks


def run_encode(experiment, params: Any, workdir: Path, step: int, seeds: range) -> dict[str, Any]:
    """Writes `<split>/latents_<first>-<last>.npz`, `.json` and, of images, `.png`.

    The npz: `z` (n, ...) in units of the prior's std, `indices` (n,), `labels` where there are any,
    `mean` and `variance` of z over the examples, and `split`, `step`. Failed solves are left out of
    it. The png: examples, their codes from -3 (black) to 3, and what the codes decode to.

    Raises:
        ValueError: for examples that the split does not have, or where every solve failed.
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
    """The numbers of an encoding, beside what they are for codes from N(0, I) where that is known.

    `round_trip.rms` is in units of the model; `rms_levels` in levels of the data, null if they are
    continuous. `norm` is the mean of `|z| / sqrt(D)`. `mean` and `variance` are those of each
    dimension over the examples; in full they are in the npz.
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
    """Decodes `latents.temperature` times the codes of a file, all of them whatever the seeds.

    Writes `decoded_<file>_tau_<temperature>.npz` (`arr_0` as `--mode sample` has it, `indices` if
    the file has them, `temperature`) and `.png`. Failed solves are left out.

    Raises:
        ValueError: for a file that is not one of codes of this data, or where every solve failed.
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
    """Walks from each example to the next, in codes by `latents.blend`, and decodes them.

    Writes `walk_<blend>_<first>-<last>.npz` and, of images, `.png` with a walk a row. The npz:
    `arr_0` (pairs, nodes, ...) as `--mode sample` has it, `pairs` (pairs, 2) of example numbers,
    `weights` (nodes,), `failed` (pairs, nodes), where `arr_0` means nothing.

    Raises:
        ValueError: for a single example, one that the split does not have, or failures throughout.
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
    # A pair with an end that failed has no codes, and fails whole.
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
    """The split that `latents.dataset` names, and the numbers wanted of it."""
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
    """Codes as grey values or colours: three standard deviations to either side of the middle."""
    return (z + 3.0) / 6.0


def rms_of(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(values**2)))


def write(experiment, folder: Path, stem: str, arrays: dict, unit, columns: int | None) -> None:
    """The arrays, and a picture where the data are images; by the lead alone."""
    if not is_lead():
        return
    folder.mkdir(parents=True, exist_ok=True)
    put_arrays(folder / f"{stem}.npz", **arrays)
    if pictured(experiment):
        save_png(folder / f"{stem}.png", grid(unit, columns=columns))
