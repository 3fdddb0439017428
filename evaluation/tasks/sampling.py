"""Drawing samples by seed, and writing them down: `--mode sample`.

Sample i is a function of `(eval.seed, i)` and the parameters: its start, and the noise of each of
its steps, come from `example_keys(seed, i)`.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from evaluation.report.images import shown, to_levels
from evaluation.report.pictures import grid, save_png, trajectory_figure
from evaluation.store.batches import open_store
from evaluation.store.gather import joined
from evaluation.store.sample_store import ARRAYS, SampleStore, make_plan
from parallel.mesh import by_device
from parallel.processes import each, is_lead
from samplers.base import SampleResult, finite, spread
from sde_lib import example_keys, split
from whole_files import put_arrays


def draw(experiment, params: Any, indices: Sequence[int], seed: int) -> SampleResult:
    """Samples with the given numbers, in batches of `sampling.batch_size`, which the processes of a
    job share.

    Returns model-scaled `x` (n, ...), the mean `nfe`, and `failed` (n,). The last batch is padded,
    so one program serves all.
    """
    return make_draw(experiment, seed)(params, indices)


def make_draw(experiment, seed: int) -> Callable[[Any, Sequence[int]], SampleResult]:
    """`draw` as a function of parameters and numbers, for several calls with one program."""
    run, size = drawing(experiment, seed), experiment.config.sampling.batch_size

    def drawn(params: Any, indices: Sequence[int]) -> SampleResult:
        numbers = np.asarray(indices, np.int32)
        x, nfe, failed = in_shares(lambda part: run(params, part), size, numbers)
        return SampleResult(x, None, np.mean(nfe), failed)

    return drawn


def drawing(experiment, seed: int) -> Callable:
    """`params, indices (n,) -> x, nfe, failed`, each (n, ...); compiled at the first call."""
    batch = by_device(
        lambda params, own, i: arrays_of(sample_batch(experiment, params, seed, i, own)),
        shared=2,
        together=depend_on_each_other(experiment.config.sampling),
    )
    return lambda params, indices: batch(params, own_parameters(experiment), indices)


def depend_on_each_other(section) -> bool:
    """Whether the samples of a batch do: by a common step size, or as outputs of one chain."""
    corrects = section.method in ("pc", "score_sde") and section.corrector != "none"
    return (
        by_batch(section)
        or (corrects and section[section.corrector].norm == "batch")
        or (section.method == "denoising_mcmc" and section.denoising_mcmc.outputs > 1)
    )


def by_batch(section) -> bool:
    """Whether an adaptive solve takes one step size for all samples of a batch."""
    return section.get(section.method, {}).get("batching") == "batch"


def stored_samples(
    experiment, params: Any, folder: Path, step: int | None, n: int, run: Callable | None = None
) -> dict[str, np.ndarray]:
    """Samples 0 to n - 1 of `eval.seed`: `index`, `x` (n, ...) in levels, or as they are where the
    data are continuous, `nfe` and `failed`, where `x` means nothing.

    Finished batches are kept in `folder` and found again there, see `batches.py`. The processes of
    a job share the batches.

    Args:
        run: what `drawing` returns for `eval.seed`, made once for several checkpoints.

    Raises:
        ValueError: where every sample failed.
    """
    config = experiment.config
    store = open_store(SampleStore, folder, make_plan(experiment, params, step))
    size, run = config.sampling.batch_size, run or drawing(experiment, config.eval.seed)

    def batch_of(batch: int, index: np.ndarray) -> dict[str, np.ndarray]:
        if (found := store.load(batch, index)) is not None:
            return found
        x, nfe, failed = in_parts(lambda part: run(params, part), size, index)
        found = dict(zip(ARRAYS, (index, to_levels(experiment.scaler, x)[0], nfe, failed)))
        store.save(batch, found)
        return found

    parts = np.split(np.arange(n, dtype=np.int32), range(size, n, size))
    found = joined(each(len(parts), lambda batch: batch_of(batch, parts[batch])))
    check_some(found["failed"], config.sampling)
    return found


def in_parts(run: Callable, size: int, *arrays) -> list[np.ndarray]:
    """`run(*parts)`, a tuple of arrays, over parts of that size along the first axis; each joined.

    The last part is filled up with its own first entry, so one program serves all.
    """
    found, count = [], len(arrays[0])
    for first in range(0, count, size):
        part = np.arange(first, min(first + size, count))
        full = np.concatenate([part, np.full(size - len(part), first)])
        result = jax.device_get(run(*(array[full] for array in arrays)))
        found.append([leaf[: len(part)] for leaf in result])
    return [np.concatenate(leaves) for leaves in zip(*found)]


def in_shares(run: Callable, size: int, *arrays) -> list[np.ndarray]:
    """The same, with the parts shared by the processes of a job."""

    def part(i: int) -> dict[str, np.ndarray]:
        rows = slice(i * size, (i + 1) * size)
        made = in_parts(run, size, *(array[rows] for array in arrays))
        return {str(k): leaf for k, leaf in enumerate(made)}

    found = each(-(-len(arrays[0]) // size), part)
    return [np.concatenate([part[name] for part in found]) for name in found[0]]


def arrays_of(result: SampleResult) -> tuple[jax.Array, jax.Array, jax.Array]:
    """`x`, `nfe` and `failed` of a batch, each with an entry for every sample; what is not finite
    has failed, whatever the method."""
    each = lambda v: jnp.broadcast_to(v, result.x.shape[:1])
    return result.x, each(result.nfe), each(result.failed) | ~finite(result.x)


def own_parameters(experiment) -> Any:
    """The parameters of the guide to classes; None where there is none, or it has none."""
    return None if experiment.classes is None else experiment.classes.own


def sample_batch(
    experiment, params: Any, seed: int, indices: jax.Array, own: Any = None, **kwargs
) -> SampleResult:
    """One batch, a pure function of its arguments; `own` are the parameters of a guide."""
    start_keys, noise_keys = split(example_keys(seed, indices), 2)
    x = experiment.path.prior_sample(start_keys, (indices.shape[0], *experiment.shape))
    classes = experiment.classes
    if classes is None:
        return experiment.sample(noise_keys, experiment.predict(params), x, **kwargs)
    predict = classes.predict(params, own)
    return experiment.sample(noise_keys, predict, x, classes.label(indices), **kwargs)


def check_some(failed: np.ndarray, section) -> None:
    """Raises:
    ValueError: where every sample failed, with what to try; `section` is `sampling`.
    """
    if not failed.all():
        return
    own = section.get(section.method, {})
    # What only methods that choose their own steps have.
    if {"max_steps", "batching"} & set(own):
        most = f"max_steps = {own.max_steps}" if "max_steps" in own else "max_steps"
        raise ValueError(
            f"None of {failed.size} solves by sampling.method = {section.method!r} reached its "
            f"end; raise its {most}, or loosen its tolerance."
        )
    raise ValueError(
        f"None of {failed.size} samples by sampling.method = {section.method!r} is finite; raise "
        "sampling.steps, weaken the guide if there is one, or train on."
    )


def pictured(experiment) -> bool:
    """Whether a sample can be shown: a grey or colour image whose range is known."""
    shape, levels = experiment.shape, experiment.scaler.levels
    return len(shape) == 3 and shape[-1] in (1, 3) and levels > 0


def run_sampling(experiment, params: Any, workdir: Path, step: int, seeds: range) -> dict[str, Any]:
    """Writes `samples_<first>-<last>.npz` (`arr_0` NHWC, `seeds`, under guidance to classes
    `labels`) and `sample.png`.

    `arr_0` is uint8 as the usual evaluators take it; digits of 17 levels keep their own levels.

    Raises:
        ValueError: where every sample failed; nothing is written then.
    """
    result = draw(experiment, params, seeds, experiment.config.eval.seed)
    check_some(result.failed, experiment.config.sampling)
    kept = ~result.failed
    levels, unit = to_levels(experiment.scaler, result.x[kept])
    numbers = np.asarray(seeds)[kept]
    told = {}
    if experiment.classes is not None:
        told["labels"] = np.asarray(experiment.classes.label(jnp.asarray(numbers)))
    folder = workdir / "samples" / f"step_{step}"
    written = {"samples": len(seeds), "nfe": float(result.nfe), "failed": int(result.failed.sum())}
    if is_lead():
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / f"samples_{seeds.start}-{seeds.stop - 1}.npz"
        put_arrays(file, arr_0=levels, seeds=numbers, **told)
        if pictured(experiment):
            save_png(folder / "sample.png", grid(unit[: shown(256, experiment.shape)]))
    return {**written, "folder": str(folder)}


def make_trajectory(experiment, rows: int = 8, columns: int = 10) -> Callable[[Any, Path], None]:
    """`params, path ->` a figure of samples on their way from noise to data, by the configured
    fixed-step sampler.

    Shows what is left of the noise at times evenly spread over the steps. Only the states that are
    shown are kept, on the device too.
    """
    seed, numbers = experiment.config.eval.seed, jnp.arange(rows)
    kept = {"collect": lambda state: state.x, "frames": columns - 1}
    run = jax.jit(lambda params, own: sample_batch(experiment, params, seed, numbers, own, **kept))

    def trajectory(params: Any, path: Path) -> None:
        result = jax.device_get(run(params, own_parameters(experiment)))
        ends = result.ts[1:][spread(len(result.ts) - 1, columns - 1)]
        times = [*map(float, ends), 0.0]
        unit = [experiment.scaler.to_unit(jnp.asarray(x)) for x in (*result.trace, result.x)]
        trajectory_figure(np.stack(unit), times, path)

    return trajectory
