"""Where the numbers of a run go: `metrics.jsonl` and TensorBoard events, appended, never cut."""

import contextlib
import json
import time
from pathlib import Path

# Without the thread of its SummaryWriter, which would tell of a full disk after we have.
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary


class MetricWriter:
    """Writes scalars by step, on process 0 alone.

    A resumed run appends. Rows of steps that a killed run had logged beyond its last checkpoint
    stand twice then; `read_metrics` lets the later one win, and TensorBoard is told to purge them.
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
            # A kill may have cut the last line short, and the next one must not go on from there.
            cut = path.exists() and path.read_bytes()[-1:] not in (b"", b"\n")
            self._rows = path.open("a")
            self._rows.write("\n" * cut)

    def write(self, step: int, values: dict[str, float]) -> None:
        """One row.

        Raises:
            OSError: where it cannot be written, in one sentence.
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
        """A row of what is no scalar, and so not for TensorBoard."""
        if self._active:
            self._put(step, facts)

    def _put(self, step: int, values: dict) -> None:
        self._rows.write(json.dumps({"step": step, **values}) + "\n")
        self._rows.flush()

    def close(self) -> None:
        if self._active:
            # What could not be written was said when it was to be, and is tried again here.
            for file in (self._rows, self._events):
                with contextlib.suppress(OSError):
                    file.close()


def event(step: int, values: dict[str, float]) -> Event:
    """One row as TensorBoard reads it."""
    scalars = [Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
    return Event(wall_time=time.time(), step=step, summary=Summary(value=scalars))


def read_metrics(workdir: Path) -> list[dict[str, float]]:
    """The rows by rising step; values that were logged again replace the earlier ones.

    What is no row, such as a last line cut off by a kill, is passed over.
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
    """Wall time of a run from its rows, over all its restarts; time lost to kills is not in it."""
    return sum(row.get("seconds", 0.0) + row.get("action_seconds", 0.0) for row in rows)
