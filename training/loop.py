"""The loop: run the step, and every so often do something about it."""

import contextlib
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
from tqdm import tqdm

from data import Loader
from parallel.mesh import put_batch
from parallel.processes import together
from training.checkpoint import Checkpoints
from training.finite import Watch, check_state
from training.metrics import MetricWriter
from training.profile import Profiler
from training.rescue import rescue
from training.state import TrainState
from training.stop import Stop, Stopped


class Every(NamedTuple):
    """`action(state)`, whose scalars are logged, after each multiple of `freq` steps; 0 never."""

    freq: int
    action: Callable[[TrainState], dict[str, float]]


class Schedule(NamedTuple):
    """How long a run trains, and at which steps something is done besides.

    - `n_iters`: updates in all, to which a run goes exactly.
    - `n_jitted_steps`: updates in a call of the step.
    - `log_freq`, `snapshot_freq`: steps between two rows of metrics, and two checkpoints; 0 never.
    - `max_skipped`: steps in a row without a finite gradient that are passed over.
    - `progress`: whether a bar is shown.
    """

    n_iters: int
    n_jitted_steps: int
    log_freq: int
    snapshot_freq: int
    max_skipped: int = 0
    progress: bool = True


def train(
    step: Callable,
    state: TrainState,
    loader: Loader,
    checkpoints: Checkpoints,
    writer: MetricWriter,
    *,
    mesh: jax.sharding.Mesh,
    schedule: Schedule,
    actions: tuple[Every, ...] = (),
    profiler: Profiler | None = None,
    stop: Stop | None = None,
) -> TrainState:
    """Trains from `state.step` to the end of the schedule.

    Nothing leaves the device between logs: metrics are gathered there and read together. They are
    read, and checked, before every checkpoint, so a checkpoint never holds a diverged state.

    Whatever else goes wrong between two steps, such as a picture that cannot be read or an action,
    leaves with a note, after a checkpoint of the step that was done (see `rescue`).

    Raises:
        TrainingDiverged: as soon as the metrics of `max_skipped` + 1 steps in a row that are not
            finite are read; the last checkpoint is a good one.
        Stopped: after a checkpoint, where a signal asked for it.
        JobError: on every process of a job, where a row or an action failed on one.
    """
    done = kept = int(state.step)
    axis = 0 if schedule.n_jitted_steps == 1 else 1
    place = lambda batch: put_batch(batch, mesh, axis)
    batches = loader.iterate(done, schedule.n_jitted_steps, place=place)
    pending: list[tuple[int, Any]] = []
    bar = progress_bar(schedule, done)
    clock, watch = Clock(done), Watch(schedule.max_skipped)

    def log(values: dict[str, float]) -> None:
        together(lambda: writer.write(done, values))

    def read() -> None:
        values = watch.read(pending)
        pending.clear()
        if skipped := values.get("skipped"):
            print(f"{skipped} steps up to {done} were skipped: no finite gradient.")
        log({**values, **clock.lap(done)})
        bar.update(done - bar.n)
        bar.set_postfix_str(f"loss {values.get('training_loss', float('nan')):.4f}")

    def save() -> None:
        nonlocal kept
        if pending:
            read()
        if kept != done:
            check_state(state, done)
            checkpoints.save(state)
            kept = done

    try:
        while done < schedule.n_iters:
            if profiler:
                profiler.before(done, pending)
            with clock.waiting():
                batch = next(batches)
            with jax.profiler.StepTraceAnnotation("train", step_num=done):
                state, metrics = step(state, batch)
            pending.append((done, metrics))
            before, done = done, done + schedule.n_jitted_steps
            ended = done >= schedule.n_iters
            stopping = stop is not None and stop.asked()
            wanted = stopping or (stop is not None and stop.save_asked())
            saving = crossed(before, done, schedule.snapshot_freq) or ended or wanted
            due = [every for every in actions if crossed(before, done, every.freq)]
            if saving or due or crossed(before, done, schedule.log_freq):
                read()
            if saving:
                save()
            if stopping:
                checkpoints.wait()
                raise Stopped(done, stop.number)
            for every in due:
                found = together(partial(every.action, state))
                log({**found, "action_seconds": clock.lap()["seconds"]})
    except Exception as error:
        rescue(error, save, checkpoints)
        raise
    finally:
        if profiler:
            profiler.stop(pending)
        batches.close()
        bar.close()
    checkpoints.wait()
    return state


def progress_bar(schedule: Schedule, done: int) -> tqdm:
    """The bar of a run of which so many updates are done."""
    shown = {"disable": not schedule.progress, "unit": "step", "smoothing": 0.05}
    return tqdm(total=schedule.n_iters, initial=done, **shown)


def crossed(before: int, after: int, freq: int) -> bool:
    """Whether a multiple of `freq` lies in (before, after]."""
    return freq > 0 and after // freq > before // freq


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
