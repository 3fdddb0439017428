"""The loop: run the step, and every so often do something about it."""

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from data import Loader
from parallel.mesh import put_batch
from training.checkpoint import Checkpoints
from training.metrics import MetricWriter
from training.profile import Profiler
from training.state import TrainState


class TrainingDiverged(RuntimeError):
    """A loss or gradient that is not finite. Says the step and the times of its batch."""


class Every(NamedTuple):
    """`action(state)`, whose scalars are logged, after each multiple of `freq` steps; 0 never."""

    freq: int
    action: Callable[[TrainState], dict[str, float]]


def train(
    step: Callable,
    state: TrainState,
    loader: Loader,
    checkpoints: Checkpoints,
    writer: MetricWriter,
    *,
    mesh: jax.sharding.Mesh,
    n_iters: int,
    n_jitted_steps: int,
    log_freq: int,
    snapshot_freq: int,
    actions: tuple[Every, ...] = (),
    profiler: Profiler | None = None,
    progress: bool = True,
) -> TrainState:
    """Trains from `state.step` to exactly `n_iters` updates.

    Nothing leaves the device between logs: metrics are gathered there and read together. They are
    read, and checked, before every checkpoint, so a checkpoint never holds a diverged state.

    Raises:
        TrainingDiverged: as soon as the metrics are read; the last checkpoint is a good one.
    """
    done = int(state.step)
    axis = 0 if n_jitted_steps == 1 else 1
    place = lambda batch: put_batch(batch, mesh, axis)
    batches = loader.iterate(done, n_jitted_steps, place=place)
    pending: list[tuple[int, Any]] = []
    bar = tqdm(total=n_iters, initial=done, disable=not progress, unit="step", smoothing=0.05)
    clock = Clock(done)
    try:
        while done < n_iters:
            if profiler:
                profiler.before(done, pending)
            with clock.waiting():
                batch = next(batches)
            with jax.profiler.StepTraceAnnotation("train", step_num=done):
                state, metrics = step(state, batch)
            pending.append((done, metrics))
            before, done = done, done + n_jitted_steps
            save = crossed(before, done, snapshot_freq) or done >= n_iters
            due = [every for every in actions if crossed(before, done, every.freq)]
            if save or due or crossed(before, done, log_freq) or done >= n_iters:
                values = read(pending)
                pending.clear()
                writer.write(done, {**values, **clock.lap(done)})
                bar.update(done - bar.n)
                bar.set_postfix_str(f"loss {values['training_loss']:.4f}")
            if save:
                check_state(state, done)
                checkpoints.save(state)
            for every in due:
                writer.write(
                    done, {**every.action(state), "action_seconds": clock.lap()["seconds"]}
                )
    finally:
        if profiler:
            profiler.stop(pending)
        batches.close()
        bar.close()
        checkpoints.wait()
    return state


def crossed(before: int, after: int, freq: int) -> bool:
    """Whether a multiple of `freq` lies in (before, after]."""
    return freq > 0 and after // freq > before // freq


def read(pending: list[tuple[int, Any]]) -> dict[str, float]:
    """Fetches gathered metrics, checks every step's, and averages them.

    Raises:
        TrainingDiverged: naming the first step whose loss or gradient is not finite.
    """
    first = pending[0][0]
    fetched = jax.device_get([metrics for _, metrics in pending])
    columns = {
        name: np.concatenate([np.atleast_1d(metrics[name]) for metrics in fetched])
        for name in ("loss", "grad_norm")
    }
    bad = ~np.isfinite(columns["loss"]) | ~np.isfinite(columns["grad_norm"])
    if bad.any():
        i = int(np.argmax(bad))
        times = np.concatenate([m["t"].reshape(-1, m["t"].shape[-1]) for m in fetched])[i]
        shown = ", ".join(f"{t:.3g}" for t in np.sort(times)[:8])
        raise TrainingDiverged(
            f"Training diverged at step {first + i}: loss {columns['loss'][i]}, gradient norm "
            f"{columns['grad_norm'][i]}; the batch had {times.size} times in "
            f"[{times.min():.3g}, {times.max():.3g}], the smallest {shown}. The last checkpoint is "
            "good; lower optim.lr, set optim.grad_clip, or raise sde.t0."
        )
    return {
        "training_loss": float(columns["loss"].mean()),
        "grad_norm": float(columns["grad_norm"].mean()),
    }


def check_state(state: TrainState, done: int) -> None:
    """A finite gradient can still make a parameter that is not, and only the next loss would tell.

    Raises:
        TrainingDiverged: where a parameter, or its average, is not finite.
    """
    if not all_finite((state.params, state.ema_params)):
        raise TrainingDiverged(
            f"Training diverged at step {done - 1}: its loss is finite, but a parameter after its "
            "update is not. The last checkpoint is good; lower optim.lr, or raise optim.eps."
        )


@jax.jit
def all_finite(tree: Any) -> jax.Array:
    return jnp.all(jnp.asarray([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]))


class Clock:
    """Wall time and speed since it was last asked, and the share that went to waiting for data."""

    def __init__(self, step: int):
        self._step, self._time, self._waited = step, time.perf_counter(), 0.0

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        begin = time.perf_counter()
        yield
        self._waited += time.perf_counter() - begin

    def lap(self, step: int | None = None) -> dict[str, float]:
        """`seconds` since the last lap and, for a new step, `steps_per_second` and `data_share`."""
        now = time.perf_counter()
        seconds, self._time = now - self._time, now
        if step is None:
            return {"seconds": seconds}
        rate, self._step = (step - self._step) / max(seconds, 1e-9), step
        share, self._waited = self._waited / max(seconds, 1e-9), 0.0
        return {"seconds": seconds, "steps_per_second": rate, "data_share": share}
