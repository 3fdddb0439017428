"""Injected faults: what the program prints, what it leaves on disk, and how the run resumes.

The table in `docs/faults.md` names these tests, and tests of other files for other faults.
"""

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from program import ROOT, inside
from tiny import flags

import training.run
from builders.experiment import build
from parallel.mesh import make_mesh
from training.checkpoint import Checkpoints
from training.metrics import read_metrics
from training.restore import restore

pytestmark = [
    pytest.mark.usefixtures("damages"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

CHANGES = {"training__n_iters": 9, "training__snapshot_freq": 3, "model__dropout": 0.25}

# Does `argv[1]` at step `argv[2]`, after the row of that step is written.
FAULT = """
import errno, os, resource, signal, sys, time
import main
from absl import app
from training.checkpoint import Checkpoints
from training.metrics import MetricWriter

what, at = sys.argv.pop(1), int(sys.argv.pop(1))
write, save, replace, rename = MetricWriter.write, Checkpoints.save, os.replace, os.rename
mkdir = os.mkdir

def full(size):
    # Every write that makes a file longer than this fails, as on a full disk.
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

def write_row(self, step, values):
    if step == at and what in ("SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1"):
        os.kill(os.getpid(), getattr(signal, what))
    if step == at and what == "reader gone":
        read, write_end = os.pipe()
        for number in (1, 2):
            os.dup2(write_end, number)
        os.close(read)
    if step == at and what == "log full":
        for number in (1, 2):
            os.dup2(os.open("/dev/full", os.O_WRONLY), number)
    if step == at and what == "twice":
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
    if step == at and what == "row":
        while not os.path.exists(os.path.join(os.path.dirname(self._rows.name), "checkpoints/3")):
            time.sleep(0.01)
        full(os.path.getsize(self._rows.name))
    write(self, step, values)

def save_state(self, state, *given):
    # The one before is whole by now, as it would be in a longer run.
    self.wait()
    if int(state.step) == at and what == "disk":
        full(20_000)
    save(self, state, *given)

def die_before(move):
    def moved(source, target, **kwargs):
        if what == "write" and str(target).endswith(f"checkpoints/{at}"):
            assert any(os.scandir(source))
            os.kill(os.getpid(), signal.SIGKILL)
        return move(source, target, **kwargs)
    return moved

def make_folder(path, *args, **kwargs):
    # In a file system that has become read-only, or that has no inodes left.
    if what == "no folder" and f"checkpoints/{at}" in str(path):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
    return mkdir(path, *args, **kwargs)

MetricWriter.write, Checkpoints.save, os.mkdir = write_row, save_state, make_folder
os.rename, os.replace = die_before(rename), die_before(replace)
app.run(main.main, flags_parser=main.parse_flags)
"""


@pytest.fixture(scope="module")
def faults(program, images, images_config, tmp_path_factory):
    return Faults(program, images, images_config, tmp_path_factory.mktemp("faults"))


class Faults:
    """Runs with a fault, and a run without a fault to compare them with."""

    def __init__(self, program, images, images_config, folder):
        self.program, self.images, self.folder = program, images, folder
        self.experiment = build(images_config(**CHANGES))
        self.good = self.state(self.ends(folder / "good"))

    def argv(self, workdir, mode="train", **changes):
        argv = ["--config", self.images, "--workdir", workdir, "--mode", mode]
        return [*argv, *flags(**CHANGES, **changes)]

    def ends(self, workdir):
        result = inside(*self.argv(workdir))
        assert result.status == 0, result.err
        return workdir

    def inject(self, what, at):
        """Return the workdir and the result of a run with that fault."""
        workdir = self.folder / f"{what}_{at}"
        return workdir, self.program.script(FAULT, what, at, *self.argv(workdir))

    def state(self, workdir):
        checkpoints = Checkpoints(workdir)
        state = restore(self.experiment, checkpoints, make_mesh())
        checkpoints.close()
        return state.replace(key=jax.random.key_data(state.key))

    def goes_on(self, workdir, step):
        """Assert that the same command resumes from that step, and ends as without a fault."""
        result = inside(*self.argv(workdir))
        assert result.status == 0, result.err
        assert f"from step {step} to 9" in result.out
        for a, b in zip(jax.tree.leaves(self.state(workdir)), jax.tree.leaves(self.good)):
            np.testing.assert_array_equal(a, b)
        assert [row["step"] for row in read_metrics(workdir)] == list(range(1, 10))
        return result


def one_line(result, *parts):
    (line,) = result.err.splitlines()
    for part in parts:
        assert part in line, line
    assert line.endswith(".")


@pytest.mark.parametrize("name, status", [("SIGTERM", 143), ("SIGINT", 130), ("SIGHUP", 129)])
def test_a_signal(faults, name, status):
    """After a signal during step 4, step 5 is finished and saved, and is the last."""
    workdir, result = faults.inject(name, 4)
    assert result.status == status
    one_line(result, f"Stopped by {name} at step 5", "same command goes on")
    assert Checkpoints(workdir).steps() == [3, 5]
    result = inside(*faults.argv(workdir))
    assert result.status == 0 and "from step 5 to 9" in result.out
    for a, b in zip(jax.tree.leaves(faults.state(workdir)), jax.tree.leaves(faults.good)):
        np.testing.assert_array_equal(a, b)


def test_a_signal_while_the_step_is_compiled(faults, tmp_path, monkeypatch):
    """It is not lost: the run ends after the first step."""
    compile_step = training.run.compile_step

    def told(*given):
        os.kill(os.getpid(), signal.SIGINT)
        return compile_step(*given)

    monkeypatch.setattr("training.run.compile_step", told)
    result = inside(*faults.argv(tmp_path / "run"))
    assert result.status == 130
    one_line(result, "Stopped by SIGINT at step 1", "same command goes on")
    assert Checkpoints(tmp_path / "run").steps() == [1]


def test_ctrl_c_while_modules_are_imported(tmp_path):
    """The program ends there and then, without a traceback."""
    (tmp_path / "jax.py").write_text(
        "import os, signal\nos.kill(os.getpid(), signal.SIGINT)\nprint('on')\n"
    )
    given = {"cwd": ROOT, "env": {**os.environ, "PYTHONPATH": str(tmp_path)}}
    result = subprocess.run([sys.executable, "main.py"], **given, capture_output=True)
    assert (result.returncode, result.stdout, result.stderr) == (130, b"", b"")


@pytest.mark.parametrize("where", ["main.build", "main.make_evaluation"])
def test_ctrl_c_outside_of_training(faults, monkeypatch, where):
    """While the experiment is built, and in an evaluation."""
    monkeypatch.setattr(where, lambda *_: os.kill(os.getpid(), signal.SIGINT))
    result = inside(*faults.argv(faults.folder / "good", "eval"))
    assert (result.status, result.err) == (130, "Interrupted; what was written before is whole.\n")


def test_a_signal_to_save_and_go_on(faults):
    """After SIGUSR1 during step 4, step 5 is saved, and the run goes on to its end."""
    workdir, result = faults.inject("SIGUSR1", 4)
    assert result.status == 0, result.err
    assert Checkpoints(workdir).steps() == [3, 5, 6, 9]
    for a, b in zip(jax.tree.leaves(faults.state(workdir)), jax.tree.leaves(faults.good)):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("what", ["reader gone", "log full"])
def test_a_log_that_is_lost_does_not_lose_the_run(faults, what):
    """If nothing can be written to the terminal from step 4 on, the run still ends as usual."""
    workdir, result = faults.inject(what, 4)
    assert result.status == 0
    for a, b in zip(jax.tree.leaves(faults.state(workdir)), jax.tree.leaves(faults.good)):
        np.testing.assert_array_equal(a, b)


def test_a_second_signal_does_not_wait(faults):
    workdir, result = faults.inject("twice", 5)
    assert result.status == 143 and not result.err
    assert Checkpoints(workdir).steps() in ([3], [])
    faults.goes_on(workdir, (Checkpoints(workdir).steps() or [0])[-1])


def test_killed_inside_a_write(faults):
    """A run killed inside a write resumes from the checkpoint before.

    The data of step 6 are on disk, under a name that is not a checkpoint's. The output up to the
    kill is not lost.
    """
    workdir, result = faults.inject("write", 6)
    assert result.status == -9
    assert "from step 0 to 9\n" in result.out
    assert Checkpoints(workdir).steps() == [3]
    faults.goes_on(workdir, 3)
    assert Checkpoints(workdir).steps() == [3, 6, 9]


def test_a_full_disk_under_a_checkpoint(faults):
    workdir, result = faults.inject("disk", 6)
    assert result.status == 1
    one_line(result, "A checkpoint could not be written", "that of step 3 is whole", "Make room")
    assert Checkpoints(workdir).steps() == [3]
    faults.goes_on(workdir, 3)


def test_a_folder_that_cannot_be_made(faults):
    """The run ends at once, where orbax would wait for the folder for five minutes more."""
    begin = time.monotonic()
    workdir, result = faults.inject("no folder", 6)
    assert result.status == 1 and time.monotonic() - begin < 60
    one_line(result, "A checkpoint could not be written", "that of step 3 is whole", "Make room")
    faults.goes_on(workdir, 3)


def test_a_full_disk_under_a_row(faults):
    workdir, result = faults.inject("row", 5)
    assert result.status == 1
    one_line(result, "The row of step 5 could not be written", "metrics.jsonl", "Make room")
    assert Checkpoints(workdir).steps() == [3]
    faults.goes_on(workdir, 3)


@pytest.fixture(scope="module")
def finished(faults):
    return faults.folder / "good"


@pytest.fixture
def copy(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    return tmp_path / "run"


def data_of(folder):
    """Return the files of a checkpoint that hold its arrays."""
    return [path for path in (folder / "default" / "d").iterdir() if path.stat().st_size > 1000]


def flip(folder):
    """Flip one bit of every 500th byte, so that every field is damaged."""
    for file in data_of(folder):
        content = bytearray(file.read_bytes())
        for place in range(250, len(content), 500):
            content[place] ^= 4
        file.write_bytes(bytes(content))


def cut(folder):
    for file in data_of(folder):
        file.write_bytes(file.read_bytes()[:100])


def lose(folder):
    (folder / "default" / "_METADATA").unlink()


@pytest.mark.parametrize("harm", [flip, cut, lose])
def test_a_damaged_checkpoint(faults, copy, harm):
    """With a damaged checkpoint, training resumes from the one before, and evaluation uses it."""
    harm(copy / "checkpoints" / "9")
    argv = [*faults.argv(copy, "sample"), "--seeds", "0-3"]
    result = inside(*argv)
    assert result.status == 0, result.err
    assert "The one before is taken." in result.out and "step_6" in result.out
    assert (copy / "checkpoints" / "9").is_dir()
    if harm is flip:
        result = inside(*faults.argv(copy, "eval"))
        assert result.status == 0 and "The one before is taken." in result.out, result.err
        assert json.loads((copy / "report.json").read_text())["step"] == 6
    result = inside(*argv, "--step", 9)
    assert result.status == 1 and "delete that folder" in result.err
    result = faults.goes_on(copy, 6)
    assert str(copy / "damaged") in result.out and (copy / "damaged" / "9").is_dir()


def test_no_whole_checkpoint(faults, copy):
    """If no checkpoint is whole, a run stops; it does not start again over the damaged ones."""
    for step in (3, 6, 9):
        lose(copy / "checkpoints" / str(step))
    result = faults.program(*faults.argv(copy))
    assert result.status == 1
    one_line(result, "cannot be read")
    assert (copy / "checkpoints" / "3").is_dir() and (copy / "damaged" / "9").is_dir()


def test_a_second_run(faults, copy):
    """A second run is refused while the lock is held; a lock file left behind does not matter."""
    before = {p: p.stat().st_mtime_ns for p in copy.rglob("*")}
    with open(copy / "lock", "r+") as file:
        assert "process" in file.read()
        fcntl.flock(file, fcntl.LOCK_EX)
        # A run with --force_config is refused too.
        result = faults.program(*faults.argv(copy), "--config.optim.lr=0.5", "--force_config")
    assert result.status == 1
    one_line(result, "Another run is training in the workdir", "process", "since")
    after = {p: p.stat().st_mtime_ns for p in copy.rglob("*")}
    assert {p for p in before.keys() | after.keys() if before.get(p) != after.get(p)} <= {copy}
    assert inside(*faults.argv(copy)).status == 0


def test_a_workdir_that_cannot_be_written(faults, tmp_path):
    (tmp_path / "file").write_text("precious")
    for workdir in (tmp_path / "file", tmp_path / "file" / "run", "/proc/run"):
        result = inside(*faults.argv(workdir))
        assert result.status == 1
        one_line(result, f"The workdir {workdir} cannot be written", "--workdir")
    assert (tmp_path / "file").read_text() == "precious"


def test_checkpoints_is_a_file(faults, tmp_path):
    """Told before the first step, and before the config is written."""
    (tmp_path / "checkpoints").write_text("precious")
    result = inside(*faults.argv(tmp_path))
    assert result.status == 1 and "compiled" not in result.out
    one_line(result, f"The folder {tmp_path / 'checkpoints'} cannot be written (File exists)")
    assert (tmp_path / "checkpoints").read_text() == "precious"
    assert not (tmp_path / "config.json").exists()


def test_another_config(faults, copy):
    before = (copy / "config.json").read_bytes()
    result = inside(*faults.argv(copy), "--config.model.width=64")
    assert result.status == 1
    one_line(result, "belongs to another config", "model.width is 32 there and 64 now")
    assert (copy / "config.json").read_bytes() == before


def test_evaluation_beside_a_write(faults, copy):
    """An evaluation ignores a checkpoint that is being written."""
    shutil.copytree(copy / "checkpoints" / "9", copy / "checkpoints" / "12.orbax-checkpoint-tmp")
    lose(copy / "checkpoints" / "12.orbax-checkpoint-tmp")
    result = inside(*faults.argv(copy, "eval"))
    assert result.status == 0, result.err
    assert json.loads((copy / "report.json").read_text())["step"] == 9
    assert (copy / "checkpoints" / "12.orbax-checkpoint-tmp").is_dir()


class Payload:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


@pytest.mark.parametrize("key", ["data.path", "eval.classifier", "eval.statistics"])
def test_a_pickle_is_not_read(faults, copy, tmp_path, key):
    evil = np.empty(1, object)
    evil[0] = Payload(tmp_path / "ran")
    arrays = dict.fromkeys(("x", "mu", "sigma", "space", "weights"), evil)
    np.savez(tmp_path / "evil.npz", **arrays)
    argv = faults.argv(copy, "eval", eval__features=("pixels", "classifier"))
    result = inside(*argv, f"--config.{key}={tmp_path / 'evil.npz'}")
    assert result.status == 1, result.out
    assert "Traceback" not in result.err and len(result.err.splitlines()) == 1
    assert not (tmp_path / "ran").exists()
