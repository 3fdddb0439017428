"""Codes of data examples by the flow ODE, in batches, and files of codes.

The section `likelihood` of the config gives the solver, its tolerances and eps. Data are
dequantised as for bits/dim (`bits_scaler`, the noise of the first pass), with keys of the examples.
The code of example i therefore depends on `(eval.seed, i)` and the parameters, not on its batch.
"""

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from evaluation.tasks.sampling import in_shares
from likelihood.latents import Latents, decode, encode
from parallel.mesh import by_device
from samplers.base import SampleResult
from sde_lib import example_keys, fold_in, rows, split


def dequantised(experiment, raw: np.ndarray, indices: np.ndarray, seed: int | None = None):
    """Dequantise raw examples (n, ...) with the noise of the first pass of bits/dim.

    Args:
        indices: (n,), the numbers of the examples, on which the noise depends.
        seed: of the noise; `eval.seed` if None.

    Returns:
        (n, ...) in units of the model.
    """
    seed = experiment.config.eval.seed if seed is None else seed
    noise_keys, _ = split(fold_in(example_keys(seed, indices), 0), 2)
    return np.asarray(experiment.bits_scaler.to_model(noise_keys, jnp.asarray(raw)))


def encode_data(experiment, params: Any, x: np.ndarray, *cond: np.ndarray) -> Latents:
    """Encode data (n, ...) in units of the model: `z` (n, ...), `nfe` and `failed` (n,).

    Args:
        cond: the classes (n,), for a network that is conditioned on classes.

    Raises:
        ValueError: every solve failed.
    """
    solver, eps = experiment.flow_solver, experiment.config.likelihood.eps

    def batch(params, x, cond=None):
        return encode(experiment.path, experiment.predict(params), x, solver, eps, cond)

    codes = Latents(*in_batches(experiment, batch, params, x, *cond))
    arrived(codes.failed, experiment.config.likelihood)
    return codes


def decode_codes(
    experiment, params: Any, z: np.ndarray, denoise: bool = False, *cond: np.ndarray
) -> SampleResult:
    """Decode codes (n, ...) to data (n, ...) in units of the model, mean `nfe`, `failed` (n,).

    A code that is not finite, from a failed solve, is not decoded: it counts as failed, and its x
    is nan.
    """
    solver, eps = experiment.flow_solver, experiment.config.likelihood.eps
    there = np.isfinite(rows(z)).all(axis=1)

    def batch(params, z, cond=None):
        found = decode(experiment.path, experiment.predict(params), z, solver, eps, denoise, cond)
        return found.x, found.nfe, found.failed

    x, failed = np.full_like(z, np.nan), np.ones(len(z), bool)
    x[there], nfe, failed[there] = in_batches(
        experiment, batch, params, z[there], *(v[there] for v in cond)
    )
    return SampleResult(x, None, nfe.mean(), failed)


def in_batches(experiment, batch: Callable, params: Any, *arrays: np.ndarray) -> Any:
    """Compute `batch(params, *parts)` over parts of `sampling.batch_size` along the first axis.

    The processes of a job share the parts, see `in_shares`.
    """
    size = min(experiment.config.sampling.batch_size, len(arrays[0]))
    run = by_device(batch, shared=1)
    return in_shares(lambda *parts: run(params, *parts), size, *arrays)


def newest(workdir: Path, step: int) -> Path:
    """The latest file of `--mode encode` for the checkpoint `step`.

    Raises:
        ValueError: there is none.
    """
    found = (workdir / "latents" / f"step_{step}").glob("*/latents_*.npz")
    by_age = sorted(found, key=lambda path: (path.stat().st_mtime_ns, str(path)))
    if not by_age:
        raise ValueError(
            f"There are no codes of checkpoint {step} in {workdir}; run with --mode encode first, "
            "or name a file with --config.latents.file=FILE."
        )
    return by_age[-1]


def read_codes(file: Path, shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Read `z` (n, *shape), float32, and `indices` (n,) if the file has them.

    Raises:
        ValueError: the file is missing or no npz, or its arrays have other shapes or types, or a
            code is not finite.
    """
    if not file.is_file():
        raise ValueError(f"latents.file is {file}, which is no file; name one of --mode encode.")
    try:
        with np.load(file) as stored:
            codes = {key: stored[key] for key in ("z", "indices") if key in stored}
    except (ValueError, TypeError, AttributeError, EOFError, zipfile.BadZipFile):
        raise ValueError(f"{file} is not an npz file; name one of --mode encode.") from None
    z = codes.get("z")
    if z is None:
        raise ValueError(f"{file} has no array `z` of codes; name a file of --mode encode.")
    if z.shape[1:] != shape or len(z) == 0 or not np.issubdtype(z.dtype, np.floating):
        raise ValueError(
            f"`z` of {file} is {z.dtype} of shape {z.shape}; codes of these data are floats of "
            f"shape {('n', *shape)}, n at least 1."
        )
    if not np.isfinite(z).all():
        raise ValueError(f"`z` of {file} holds values that are not finite; leave those codes out.")
    if "indices" in codes and codes["indices"].shape != z.shape[:1]:
        raise ValueError(
            f"{file} has {len(z)} codes and `indices` of shape {codes['indices'].shape}; there is "
            "one for each code, or the array is left out."
        )
    return {**codes, "z": z.astype(np.float32)}


def arrived(failed: np.ndarray, section) -> np.ndarray:
    """Return which solves did not fail; `section` is `likelihood` of the config.

    Raises:
        ValueError: every solve failed. Callers write nothing before this check.
    """
    if failed.all():
        raise ValueError(
            f"None of {failed.size} solves reached its end with a finite value; {mend(section)}."
        )
    return ~failed


def mend(section) -> str:
    """Advice for the case that every solve failed."""
    own = section[section.solver]
    if section.solver == "adams":
        return (
            f"raise likelihood.adams.steps = {own.steps}, or take a likelihood.solver that chooses "
            "its steps, such as tsit5"
        )
    return (
        f"raise likelihood.{section.solver}.max_steps = {own.max_steps}, loosen its rtol and "
        "atol, or take another likelihood.solver"
    )
