"""Drawing and writing samples: `--mode sample`.

Sample i is a function of `(eval.seed, i)` and the parameters: its start and the noise of all its
steps come from `example_keys(seed, i)`.
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
    """Draw the samples with the numbers `indices`, in batches of `sampling.batch_size`.

    The processes of a job share the batches. The last batch is padded, so that one program serves
    all batches.

    Returns:
        `x` (n, ...) in units of the model, the mean `nfe`, and `failed` (n,).
    """
    return make_draw(experiment, seed)(params, indices)


def make_draw(experiment, seed: int) -> Callable[[Any, Sequence[int]], SampleResult]:
    """`draw` as a function `(params, indices)`, whose calls share one compiled program."""
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
    """Whether the samples of a batch depend on each other, by a common step size or one chain.

    `section` is `sampling` of the config.
    """
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
    """Samples 0 to n - 1 of `eval.seed`, from finished batches in `folder` as far as there are any.

    New batches are written to `folder`, see `evaluation/store/batches.py`. The processes of a job
    share the batches.

    Args:
        run: the result of `drawing` for `eval.seed`, to share among checkpoints.

    Returns:
        `index` (n,); `x` (n, ...) in levels, or in units of the model for continuous data; `nfe`
        (n,); `failed` (n,). `x` of a failed sample has no meaning.

    Raises:
        ValueError: every sample failed.
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
    """Compute `run(*parts)` over parts of `size` rows of the arrays, and concatenate the results.

    `run` returns a tuple of arrays. The last part is padded with its first row, so that one program
    serves all parts.
    """
    found, count = [], len(arrays[0])
    for first in range(0, count, size):
        part = np.arange(first, min(first + size, count))
        full = np.concatenate([part, np.full(size - len(part), first)])
        result = jax.device_get(run(*(array[full] for array in arrays)))
        found.append([leaf[: len(part)] for leaf in result])
    return [np.concatenate(leaves) for leaves in zip(*found)]


def in_shares(run: Callable, size: int, *arrays) -> list[np.ndarray]:
    """The same as `in_parts`; the processes of a job share the parts."""

    def part(i: int) -> dict[str, np.ndarray]:
        rows = slice(i * size, (i + 1) * size)
        made = in_parts(run, size, *(array[rows] for array in arrays))
        return {str(k): leaf for k, leaf in enumerate(made)}

    found = each(-(-len(arrays[0]) // size), part)
    return [np.concatenate([part[name] for part in found]) for name in found[0]]


def arrays_of(result: SampleResult) -> tuple[jax.Array, jax.Array, jax.Array]:
    """`x`, `nfe` and `failed` of a batch, each with an entry for every sample.

    A sample that is not finite counts as failed for every method.
    """
    each = lambda v: jnp.broadcast_to(v, result.x.shape[:1])
    return result.x, each(result.nfe), each(result.failed) | ~finite(result.x)


def own_parameters(experiment) -> Any:
    """The parameters of the guide to classes; None without a guide, or for one without any."""
    return None if experiment.classes is None else experiment.classes.own


def sample_batch(
    experiment, params: Any, seed: int, indices: jax.Array, own: Any = None, **kwargs
) -> SampleResult:
    """Draw one batch of samples, as a pure function of the arguments.

    Args:
        indices: (B,), the numbers of the samples.
        own: parameters of the guide to classes, see `own_parameters`.
        kwargs: passed on to `experiment.sample`.
    """
    start_keys, noise_keys = split(example_keys(seed, indices), 2)
    x = experiment.path.prior_sample(start_keys, (indices.shape[0], *experiment.shape))
    classes = experiment.classes
    if classes is None:
        return experiment.sample(noise_keys, experiment.predict(params), x, **kwargs)
    predict = classes.predict(params, own)
    return experiment.sample(noise_keys, predict, x, classes.label(indices), **kwargs)


def check_some(failed: np.ndarray, section) -> None:
    """Check that some sample did not fail; `section` is `sampling` of the config.

    Raises:
        ValueError: every sample failed; the sentence says what to try.
    """
    if not failed.all():
        return
    own = section.get(section.method, {})
    # Only methods that choose their own step size have one of these keys.
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
    """Whether a sample can be shown: it is a grey or colour image, and its range is known."""
    shape, levels = experiment.shape, experiment.scaler.levels
    return len(shape) == 3 and shape[-1] in (1, 3) and levels > 0


def run_sampling(experiment, params: Any, workdir: Path, step: int, seeds: range) -> dict[str, Any]:
    """Write `samples_<first>-<last>.npz` and, for images, `sample.png` to `samples/step_<step>`.

    The npz has `arr_0` NHWC, `seeds` (n,) and, with guidance to classes, `labels` (n,). `arr_0` is
    uint8, which the usual evaluators expect; digits of 17 levels keep their own levels. Failed
    samples are left out.

    Raises:
        ValueError: every sample failed; nothing is written then.
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
    """`params, path ->` writes a figure of samples on their way from noise to data.

    The samples come from the configured fixed-step sampler, at times spread evenly over its steps.
    Only the states that are shown are kept, on the device too.
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
