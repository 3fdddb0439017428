"""`--mode sample` with a measurement operator: measurements are restored several times each.

The measurements are made of examples of a split or of pictures, or read from a file. The noise of
the measurement of example i and the noise of its restorations come from `example_keys(eval.seed,
i)` and do not depend on the batch.
"""

import json
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from evaluation.report.images import to_levels
from evaluation.report.pictures import grid, save_png
from evaluation.tasks.given import check_rows, given_images
from evaluation.tasks.sampling import (
    arrays_of,
    depend_on_each_other,
    in_shares,
    pictured,
)
from operators import LinearOperator, measure
from parallel.mesh import by_device
from parallel.processes import each, is_lead
from sde_lib import example_keys, fold_in, several, split
from whole_files import put, put_arrays

SHOWN = 5  # restorations of an example in the picture
ROWS = 16


class Restored(NamedTuple):
    """Measurements and their restorations, in units of the model.

    `truth` (n, ...), None if unknown; `y` (n, *shape_out), the measurements; `x` (n, K, ...), the
    restorations, nan where one failed; `nfe`, the mean over restorations; `failed` (n, K).
    """

    truth: np.ndarray | None
    y: np.ndarray
    x: np.ndarray
    nfe: float
    failed: np.ndarray


def restore(experiment, restoration, params: Any, seeds: range) -> Restored:
    """Measure the examples with the numbers `seeds` and restore each `guidance.samples` times.

    With `guidance.measurement` the rows `seeds` of that file are restored instead.
    """
    section = experiment.config.guidance
    *measuring, own_keys = keys_of(experiment, np.asarray(seeds))
    if section.measurement:
        truth, y = None, read_measurement(Path(section.measurement), restoration.operator, seeds)
    else:
        truth, y = measured(experiment, restoration.operator, seeds, *measuring)
    return restored(experiment, restoration, params, own_keys, y)._replace(truth=truth)


def keys_of(experiment, indices: np.ndarray) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Keys of the examples with these numbers, `(n,)` each: for their dequantisation, for the noise
    of their measurements, and for their restorations."""
    return split(fold_in(example_keys(experiment.config.eval.seed, indices), 2), 3)


def restored(experiment, restoration, params: Any, keys: jax.Array, y) -> Restored:
    """`guidance.samples` restorations of each measurement y `(n, *shape_out)`, with keys `(n,)`.

    `truth` of the result is None.
    """
    n, k = len(y), experiment.config.guidance.samples
    make = one_by_one if restoration.together is None else together
    x, nfe, failed = make(experiment, restoration, params, keys, y)
    x = x.reshape(n, k, *experiment.shape)
    # A guide that is too stiff for the step size ends in values that are not finite.
    failed = failed.reshape(n, k) | ~np.isfinite(x.reshape(n, k, -1)).all(axis=-1)
    x = np.where(failed.reshape(n, k, *(1,) * len(experiment.shape)), np.nan, x)
    return Restored(None, np.asarray(y), x, float(nfe.mean()), failed)


def measured(experiment, operator: LinearOperator, seeds: range, data_keys, noise_keys):
    """Return examples of a split, or pictures, (n, ...), and their measurements (n, *shape_out), in
    units of the model."""
    section = experiment.config.guidance
    truth = given_images(experiment, section.dataset, seeds, data_keys)
    observe = jax.jit(lambda keys, x: measure(keys, operator, x, section.noise_std))
    return np.asarray(truth), np.asarray(observe(noise_keys, truth))


def read_measurement(file: Path, operator: LinearOperator, seeds: range) -> np.ndarray:
    """Read the rows `seeds` of the array `y` of an npz file, in units of the model, as float32.

    Raises:
        ValueError: the file is missing, no npz or without `y`; y has another shape than the
            operator measures, too few rows, no floats, or values that are not finite.
    """
    if not file.is_file():
        raise ValueError(f"guidance.measurement is {file}, which is no file; name an npz with `y`.")
    try:
        with np.load(file) as stored:
            y = stored["y"]
    except (ValueError, TypeError, AttributeError, EOFError, KeyError, zipfile.BadZipFile):
        raise ValueError(
            f"{file} is not an npz file with an array `y`; write it with numpy.savez(FILE, y=y)."
        ) from None
    if y.ndim == 0 or y.shape[1:] != operator.shape_out:
        raise ValueError(
            f"`y` of {file} has shape {y.shape} and {operator.name!r} measures "
            f"{operator.shape_out}; it must be {('n', *operator.shape_out)}."
        )
    check_rows(seeds, str(file), len(y))
    y = y[seeds.start : seeds.stop]
    if not np.issubdtype(y.dtype, np.floating) or not np.isfinite(y).all():
        raise ValueError(f"`y` of {file} is {y.dtype} or not finite; give finite floats.")
    return y.astype(np.float32)


def one_by_one(experiment, restoration, params: Any, keys: jax.Array, y: np.ndarray):
    """Make every restoration in a run of its own: x (n K, ...), `nfe` and `failed` (n K,)."""
    n, k = len(y), experiment.config.guidance.samples
    which = np.repeat(np.arange(n), k)
    draws = several(keys, k)

    def batch(params, keys, y):
        start, steps = split(keys, 2)
        x = experiment.path.prior_sample(start, (len(keys), *experiment.shape))
        return arrays_of(restoration.run(steps, experiment.predict(params), x, y))

    size = min(experiment.config.sampling.batch_size, n * k)
    run = by_device(batch, shared=1, together=depend_on_each_other(experiment.config.sampling))
    return in_shares(lambda keys, y: run(params, keys, y), size, draws, y[which])


def together(experiment, restoration, params: Any, keys: jax.Array, y: np.ndarray):
    """Make all restorations of an example in one run: x (n K, ...), `nfe` and `failed` (n K,).

    The processes of a job share the examples.
    """
    k = experiment.config.guidance.samples
    run = jax.jit(lambda params, key, y: restoration.together(key, experiment.predict(params), y))

    def example(i: int) -> dict[str, np.ndarray]:
        result = jax.device_get(run(params, keys[i], y[i]))
        return {"x": result.x, "nfe": np.full(k, result.nfe)}

    found = each(len(y), example)
    x, nfe = (np.concatenate([result[name] for result in found]) for name in ("x", "nfe"))
    return x, nfe, np.zeros(len(x), bool)


def run_restoration(
    restoration, experiment, params: Any, workdir: Path, step: int, seeds: range
) -> dict[str, Any]:
    """Write `restored/step_<step>/<method>_<operator>_<first>-<last>` as npz, png and json.

    Raises:
        ValueError: for numbers beyond the last example, or if every restoration failed.
    """
    section = experiment.config.guidance
    found = restore(experiment, restoration, params, seeds)
    if found.failed.all():
        raise ValueError(
            f"None of {found.failed.size} restorations is finite: the steps are too few for so "
            f"stiff a guide; raise sampling.steps, or guidance.noise_std = {section.noise_std}, or "
            "take another guidance.method."
        )
    folder = workdir / "restored" / f"step_{step}"
    name = f"{section.method}_{section.operator}_{seeds.start}-{seeds.stop - 1}"
    report = {
        "step": step,
        "examples": [seeds.start, seeds.stop - 1],
        "dataset": section.measurement or section.dataset,
        "guidance": experiment.settings.guidance.to_dict(),
        "sampling": experiment.settings.sampling.to_dict(),
        "nfe": found.nfe,
        "failed": int(found.failed.sum()),
        **scores(experiment, restoration.operator, found, section.noise_std),
    }
    if is_lead():
        folder.mkdir(parents=True, exist_ok=True)
        arrays = restored_arrays(experiment, found)
        put_arrays(folder / f"{name}.npz", **arrays, indices=np.asarray(seeds))
        put(folder / f"{name}.json", json.dumps(report, indent=2) + "\n")
        if pictured(experiment):
            picture(experiment, restoration.operator, found, folder / f"{name}.png")
    shown = ("nfe", "failed", "psnr", "ssim", "misfit", "coverage", "spread")
    return {**{key: report[key] for key in shown if key in report}, "folder": str(folder)}


def restored_arrays(experiment, found: Restored) -> dict[str, np.ndarray]:
    """The arrays of the npz: restorations in levels (`arr_0`); the others in units of the model."""
    mean, std = mean_and_std(found)
    levels = to_levels(experiment.scaler, np.nan_to_num(found.x))[0]
    arrays = {"arr_0": levels, "y": found.y, "mean": mean, "std": std, "failed": found.failed}
    return arrays if found.truth is None else {**arrays, "truth": found.truth}


def mean_and_std(found: Restored) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation over the restorations of an example that did not fail, (n, ...).

    The mean is nan if all failed, the standard deviation if there are fewer than two.
    """
    kept = ~found.failed.reshape(*found.failed.shape, *(1,) * (found.x.ndim - 2))
    count = kept.sum(axis=1)
    mean = np.nansum(found.x, axis=1) / np.where(count, count, np.nan)
    square = np.nansum((found.x - mean[:, None]) ** 2, axis=1)
    return mean, np.sqrt(square / np.where(count > 1, count - 1, np.nan))


def scores(experiment, operator: LinearOperator, found: Restored, noise_std: float) -> dict:
    """Quality of the restorations, over the examples that have any.

    misfit: RMS of `y - A x`; divided by `noise_std` if there is noise, and then 1 is right.
    coverage: share of values of the truth that lie between the smallest and the largest of K
        restorations, over the values that the measurement does not determine.
    expected_coverage: `(K - 1) / (K + 1)`, the coverage of draws of the posterior.
    spread: RMS error of the mean, divided by its expected value `std sqrt(1 + 1 / K)`; 1 if the
        restorations vary as much as they err.
    psnr, psnr_of_samples, ssim: for images, of levels in [0, 1]: PSNR of the mean and of single
        restorations, SSIM of the mean; for any number of channels.

    Without a truth there is `misfit` alone. `coverage` and `spread` need more than one restoration
    of each measurement, none of them failed.
    """
    n, k = found.failed.shape
    mean, std = mean_and_std(found)
    states = found.x[~found.failed]
    which = np.repeat(np.arange(n), k)[~found.failed.ravel()]
    error = found.y[which] - np.asarray(operator.forward(jnp.asarray(states)))
    misfit = float(np.sqrt(np.mean(error**2)))
    result = {"misfit": misfit / noise_std if noise_std else misfit}
    if found.truth is None:
        return result
    if k > 1 and not found.failed.any():
        result.update(calibration(found, mean, std))
    if len(experiment.shape) == 3 and experiment.scaler.levels:
        result.update(likeness(experiment, found, mean))
    return result


def calibration(found: Restored, mean: np.ndarray, std: np.ndarray) -> dict:
    """`coverage`, `expected_coverage` and `spread`, see `scores`.

    `coverage` and `spread` are None if the measurement determines every value.
    """
    k = found.x.shape[1]
    low, high = found.x.min(axis=1), found.x.max(axis=1)
    free = high - low > 1e-3 * np.std(found.truth)
    result = {"coverage": None, "expected_coverage": (k - 1) / (k + 1), "spread": None}
    if free.any():
        inside = (low <= found.truth) & (found.truth <= high)
        ratio = np.mean((found.truth - mean)[free] ** 2) / np.mean(std[free] ** 2 * (1 + 1 / k))
        result.update(coverage=float(inside[free].mean()), spread=float(np.sqrt(ratio)))
    return result


def likeness(experiment, found: Restored, mean: np.ndarray) -> dict:
    """`psnr`, `psnr_of_samples` and `ssim`, see `scores`; the mean is not rounded to levels.

    `psnr_of_samples` is None if all samples equal the truth, `ssim` for images with a side below 3.
    """
    unit = lambda v: to_levels(experiment.scaler, v)[1]
    truth, kept = unit(found.truth), ~found.failed
    smooth = np.asarray(experiment.scaler.to_unit(jnp.asarray(mean)))
    some = np.flatnonzero(kept.any(axis=1))
    error = np.mean((unit(found.x[kept]) - truth[np.nonzero(kept)[0]]) ** 2)
    psnr = lambda i: peak_signal_noise_ratio(truth[i], smooth[i], data_range=1.0)
    # The largest odd window up to 7 that fits; a side below 3 has none.
    window = min(7, (min(experiment.shape[:2]) - 1) // 2 * 2 + 1)
    options = {"data_range": 1.0, "channel_axis": -1, "win_size": window}
    ssim = lambda i: structural_similarity(truth[i], smooth[i], **options)
    return {
        "psnr": float(np.mean([psnr(i) for i in some])),
        "psnr_of_samples": float(-10.0 * np.log10(error)) if error > 0 else None,
        "ssim": float(np.mean([ssim(i) for i in some])) if window >= 3 else None,
    }


def picture(experiment, operator: LinearOperator, found: Restored, file: Path) -> None:
    """Write a row for each example: truth, measurement as an image, mean, standard deviation,
    restorations."""
    rows = min(ROWS, len(found.y))
    mean, std = mean_and_std(found)
    unit = lambda v: np.asarray(experiment.scaler.to_unit(jnp.asarray(v[:rows])))
    spread = np.nan_to_num(std[:rows]) / max(float(np.nanmax(std[:rows])), 1e-12)
    draws = [unit(found.x[:, j]) for j in range(min(SHOWN, found.x.shape[1]))]
    known = [] if found.truth is None else [unit(found.truth)]
    columns = [*known, unit(seen(operator, found)), unit(mean), spread, *draws]
    images = np.stack(columns, axis=1).reshape(-1, *experiment.shape)
    save_png(file, grid(images, columns=len(columns)))


def seen(operator: LinearOperator, found: Restored) -> np.ndarray:
    """The measurement as an image: its pseudo-inverse if the operator has an SVD, else its adjoint.

    Singular values below a thousandth of the largest are left out.
    """
    y = jnp.asarray(found.y)
    if operator.svd is None:
        return np.asarray(operator.adjoint(y))
    s = np.asarray(operator.svd.s)
    inverse = np.where(s > 1e-3 * s.max(), 1.0 / np.where(s > 0.0, s, 1.0), 0.0)
    return np.asarray(operator.svd.v(jnp.asarray(inverse[None], y.dtype) * operator.svd.ut(y)))
