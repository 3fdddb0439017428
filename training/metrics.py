"""Logs of a run: `metrics.jsonl` and TensorBoard events; rows are appended and never removed."""

import contextlib
import json
import time
from pathlib import Path

# EventsWriter, not SummaryWriter, whose thread would report a full disk too late.
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary


class MetricWriter:
    """Writer of scalars by step, on process 0 alone.

    A resumed run appends. Steps that a killed run had logged after its last checkpoint then have
    two rows: `read_metrics` takes the later one, and TensorBoard is told to purge the earlier ones.

    Args:
        start_step: the step from which the run is resumed; 0 for a new run.
        active: whether this process writes.
    """

    def __init__(self, workdir: Path, start_step: int = 0, active: bool = True):
        self._active = active
        if active:
            (workdir / "tensorboard").mkdir(exist_ok=True)
            self._events = EventsWriter(str(workdir / "tensorboard" / "events"))
            if start_step:
                log = SessionLog(status=SessionLog.START)
                self._events.write_event(Event(step=start_step, session_log=log))
            path = workdir / "metrics.jsonl"
            # A killed run may have left an incomplete last line; the next row needs a new line.
            cut = path.exists() and path.read_bytes()[-1:] not in (b"", b"\n")
            self._rows = path.open("a")
            self._rows.write("\n" * cut)

    def write(self, step: int, values: dict[str, float]) -> None:
        """Write one row of scalars.

        Raises:
            OSError: the row cannot be written.
        """
        if not self._active:
            return
        try:
            self._put(step, values)
            self._events.write_event(event(step, values))
            self._events.flush()
        except OSError as error:
            raise OSError(
                f"The row of step {step} could not be written to {self._rows.name} "
                f"({error.strerror}); the last checkpoint is whole. Make room there, and the same "
                "command goes on."
            ) from error

    def tell(self, step: int, **facts) -> None:
        """Write a row of facts that are no scalars, to `metrics.jsonl` alone."""
        if self._active:
            self._put(step, facts)

    def _put(self, step: int, values: dict) -> None:
        self._rows.write(json.dumps({"step": step, **values}) + "\n")
        self._rows.flush()

    def close(self) -> None:
        if self._active:
            # Closing retries rows that could not be written; `write` has reported them already.
            for file in (self._rows, self._events):
                with contextlib.suppress(OSError):
                    file.close()


def event(step: int, values: dict[str, float]) -> Event:
    """One row as an event of TensorBoard."""
    scalars = [Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
    return Event(wall_time=time.time(), step=step, summary=Summary(value=scalars))


def read_metrics(workdir: Path) -> list[dict[str, float]]:
    """Read the rows of `metrics.jsonl`, one for each step, in increasing order of the steps.

    If a step was logged several times, later values replace earlier ones. Lines that are no rows,
    such as an incomplete last line of a killed run, are skipped.
    """
    path, rows = Path(workdir) / "metrics.jsonl", {}
    for line in path.read_bytes().splitlines() if path.exists() else []:
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            continue
        step = row.get("step") if isinstance(row, dict) else None
        if isinstance(step, int) and not isinstance(step, bool):
            rows.setdefault(step, {}).update(row)
    return [rows[step] for step in sorted(rows)]


def training_seconds(rows: list[dict[str, float]]) -> float:
    """Wall time of a run from its rows, over all restarts; steps lost to a kill do not count."""
    return sum(row.get("seconds", 0.0) + row.get("action_seconds", 0.0) for row in rows)
