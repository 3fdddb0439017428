"""The training loop: steps, with logs, checkpoints and other periodic actions."""

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
from training.keeping import WallTime
from training.metrics import MetricWriter
from training.profile import Profiler
from training.rescue import rescue
from training.state import TrainState
from training.stop import Stop, Stopped


class Every(NamedTuple):
    """An action after each multiple of `freq` steps (0: never).

    `action(state)` returns scalars, which are logged.
    """

    freq: int
    action: Callable[[TrainState], dict[str, float]]


class Schedule(NamedTuple):
    """The length of a run, and the steps at which it logs and saves.

    - `n_iters`: the total number of updates; a run ends exactly there.
    - `n_jitted_steps`: updates in a call of the step.
    - `log_freq`, `snapshot_freq`: steps between two rows of metrics, and two checkpoints; 0 never.
    - `save_minutes`: wall time after which a checkpoint is written that the next one replaces; 0
      never. In a job of several processes it is written at the next row of metrics.
    - `max_skipped`: the largest number of steps in a row that may be skipped for want of a finite
      loss or gradient; one more ends the run.
    - `progress`: whether a bar is shown.
    """

    n_iters: int
    n_jitted_steps: int
    log_freq: int
    snapshot_freq: int
    max_skipped: int = 0
    progress: bool = True
    save_minutes: float = 0.0


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
    """Train from `state.step` to the end of the schedule.

    Metrics stay on the device between two logs, and are then fetched together. They are also
    fetched and checked before every checkpoint, so a checkpoint never has a diverged state.

    On any other error between two steps, such as an unreadable image or a failed action, the state
    of the last step is saved, and the error is raised with a note (see `rescue`).

    Args:
        step: `(state, batch) -> (state, metrics)`, of `schedule.n_jitted_steps` updates.
        actions: periodic actions, such as an evaluation loss or a picture of samples.
        stop: signals that ask for a checkpoint or the end of the run; None for none.

    Raises:
        TrainingDiverged: `max_skipped` + 1 steps in a row are not finite, which is noticed when
            their metrics are fetched; the last checkpoint is good.
        Stopped: a signal asked for the end of the run; the state has been saved.
        JobError: on every process of a job, if a row or an action failed on one of them.
    """
    done = kept = int(state.step)
    axis = 0 if schedule.n_jitted_steps == 1 else 1
    place = lambda batch: put_batch(batch, mesh, axis)
    batches = loader.iterate(done, schedule.n_jitted_steps, place=place)
    pending: list[tuple[int, Any]] = []
    bar = progress_bar(schedule, done)
    clock, watch = Clock(done), Watch(schedule.max_skipped)
    wall_time = WallTime(schedule.save_minutes)

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

    def save(passing: bool = False) -> None:
        nonlocal kept
        if pending:
            read()
        if kept != done:
            check_state(state, done)
            checkpoints.save(state, passing)
            kept = done
        wall_time.restart()

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
            logging = crossed(before, done, schedule.log_freq)
            passing = wall_time.due(meeting=logging)
            snapshot = crossed(before, done, schedule.snapshot_freq) or ended or wanted
            due = [every for every in actions if crossed(before, done, every.freq)]
            if snapshot or passing or due or logging:
                read()
            if snapshot or passing:
                save(passing=not snapshot)
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
    """The progress bar of a run after `done` updates."""
    shown = {"disable": not schedule.progress, "unit": "step", "smoothing": 0.05}
    return tqdm(total=schedule.n_iters, initial=done, **shown)


def crossed(before: int, after: int, freq: int) -> bool:
    """Whether a multiple of `freq` lies in (before, after]."""
    return freq > 0 and after // freq > before // freq


class Clock:
    """Wall time and speed since the last lap, and the share of time spent waiting for data."""

    def __init__(self, step: int):
        self._step, self._time, self._waited = step, time.perf_counter(), 0.0

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        begin = time.perf_counter()
        yield
        self._waited += time.perf_counter() - begin

    def lap(self, step: int | None = None) -> dict[str, float]:
        """Start a new lap; return `seconds` since the last one.

        With the number of updates `step`, `steps_per_second` and `data_share`, the share of time
        spent waiting for data, are added.
        """
        now = time.perf_counter()
        seconds, self._time = now - self._time, now
        if step is None:
            return {"seconds": seconds}
        rate, self._step = (step - self._step) / max(seconds, 1e-9), step
        share, self._waited = self._waited / max(seconds, 1e-9), 0.0
        return {"seconds": seconds, "steps_per_second": rate, "data_share": share}
