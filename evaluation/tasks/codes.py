"""Codes of data examples, in batches, and files of them.

The flow is that of section `likelihood`: its solver, its tolerances, its eps. Data are dequantised
as for bits/dim (`bits_scaler`, the noise of the first pass), by keys of the examples, so the code
of example i belongs to `(eval.seed, i)` and the parameters, and not to its batch.
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
    """Raw examples (n, ...) of those numbers as the model sees them, with the noise that bits/dim
    has in its first pass; `seed` of the noise, that of `eval` if not given."""
    seed = experiment.config.eval.seed if seed is None else seed
    noise_keys, _ = split(fold_in(example_keys(seed, indices), 0), 2)
    return np.asarray(experiment.bits_scaler.to_model(noise_keys, jnp.asarray(raw)))


def encode_data(experiment, params: Any, x: np.ndarray, *cond: np.ndarray) -> Latents:
    """Codes of data (n, ...) as the model sees them: `z` (n, ...), `nfe` and `failed` (n,). `cond`
    are the classes (n,) that the network is told, if any.

    Raises:
        ValueError: where every solve failed.
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
    """Data (n, ...) as the model sees them of codes (n, ...), the mean `nfe`, and `failed` (n,).

    A code that is not finite, as of a solve that failed, is not solved for: it fails, and x is nan.
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
    """`batch(params, *parts)` over parts of `sampling.batch_size` along the first axis, which the
    processes of a job share, see `in_shares`."""
    size = min(experiment.config.sampling.batch_size, len(arrays[0]))
    run = by_device(batch, shared=1)
    return in_shares(lambda *parts: run(params, *parts), size, *arrays)


def newest(workdir: Path, step: int) -> Path:
    """The latest output of `--mode encode` of that checkpoint."""
    found = (workdir / "latents" / f"step_{step}").glob("*/latents_*.npz")
    by_age = sorted(found, key=lambda path: (path.stat().st_mtime_ns, str(path)))
    if not by_age:
        raise ValueError(
            f"There are no codes of checkpoint {step} in {workdir}; run with --mode encode first, "
            "or name a file with --config.latents.file=FILE."
        )
    return by_age[-1]


def read_codes(file: Path, shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    """`z` (n, *shape), float32, and `indices` where they are there."""
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
    """Which solves reached their end; `section` is `likelihood` of the config.

    Raises:
        ValueError: if none did; nothing is written then.
    """
    if failed.all():
        raise ValueError(
            f"None of {failed.size} solves reached its end with a finite value; {mend(section)}."
        )
    return ~failed


def mend(section) -> str:
    """What to try where every solve failed."""
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
