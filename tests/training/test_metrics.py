"""The rows of metrics of a run. A restarted run appends; the reader joins the parts to one run."""

import json
import struct

from tensorboardX.proto.event_pb2 import Event, SessionLog

from training.metrics import MetricWriter, read_metrics, training_seconds


def test_rows_over_a_restart(tmp_path):
    """A run is killed after step 5, and its last checkpoint is of step 3. Steps 4 and 5 are then
    written twice, and the reader takes the later rows."""
    writer = MetricWriter(tmp_path)
    for step in range(1, 6):
        writer.write(step, {"training_loss": 10.0 + step, "seconds": 1.0})
    writer.write(3, {"eval_loss": 0.5, "action_seconds": 0.25})
    writer.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 6, "training_lo')
    writer = MetricWriter(tmp_path, 3)
    for step in range(4, 8):
        writer.write(step, {"training_loss": 20.0 + step, "seconds": 2.0})
    writer.close()
    rows = read_metrics(tmp_path)
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6, 7]
    assert [row["training_loss"] for row in rows] == [11.0, 12.0, 13.0, 24.0, 25.0, 26.0, 27.0]
    assert rows[2]["eval_loss"] == 0.5
    # Three steps of 1 s of the first run count, four steps of 2 s of the second, and an evaluation.
    assert training_seconds(rows) == 3 * 1.0 + 4 * 2.0 + 0.25


def test_other_processes_write_nothing(tmp_path):
    writer = MetricWriter(tmp_path, active=False)
    writer.write(1, {"training_loss": 1.0})
    writer.close()
    assert not list(tmp_path.iterdir())


def test_what_is_no_row_is_passed_over(tmp_path):
    rows = [
        b"null",
        b'{"loss": 1.0}',
        b'{"step": "3"}',
        b'{"step": true}',
        b"\xff\xfe",
        b"[" * 10**5,
    ]
    good = b'{"step": 2, "loss": 0.5}'
    (tmp_path / "metrics.jsonl").write_bytes(b"\n".join([*rows, good]) + b"\n")
    assert read_metrics(tmp_path) == [{"step": 2, "loss": 0.5}]


def test_no_rows(tmp_path):
    assert read_metrics(tmp_path) == [] and training_seconds([]) == 0.0


def events(file):
    """Yield the records of a TensorBoard file. A record is length, checksum, content, checksum."""
    content = file.read_bytes()
    while content:
        (length,) = struct.unpack("<Q", content[:8])
        yield Event.FromString(content[12 : 12 + length])
        content = content[16 + length :]


def test_events_for_tensorboard(tmp_path):
    """A run that goes on from step 3 writes a START event, so TensorBoard drops later old rows."""
    writer = MetricWriter(tmp_path, 3)
    row = {"training_loss": 0.125, "skipped": 2}
    writer.write(4, row)
    (file,) = (tmp_path / "tensorboard").iterdir()
    version, start, logged = events(file)  # the events are on disk before the writer is closed
    writer.close()
    assert version.file_version == "brain.Event:2"
    assert start.step == 3 and start.session_log.status == SessionLog.START
    assert logged.step == 4
    assert {value.tag: value.simple_value for value in logged.summary.value} == row
    assert json.loads((tmp_path / "metrics.jsonl").read_text()) == {"step": 4, **row}
