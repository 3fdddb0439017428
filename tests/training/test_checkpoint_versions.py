"""Checkpoints of other versions, of other programs, and under another name."""

import shutil

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from small_states import assert_equal, experiment, params, save, shapes, state_at

from training.checkpoint import CheckpointError, Checkpoints, Damaged, fields_of
from training.checksum import plain_sum
from training.restore import restore_ema

pytestmark = pytest.mark.usefixtures("damages")


def write(folder, step, item):
    """Write a checkpoint as another version of the program would."""
    manager = ocp.CheckpointManager(
        folder / "checkpoints", item_handlers=ocp.PyTreeCheckpointHandler()
    )
    manager.save(step, args=ocp.args.PyTreeSave(item))
    manager.close()


def test_a_checkpoint_without_checksums(tmp_path):
    """A checkpoint without checksums, from a first version or another program, can be read."""
    write(tmp_path, 6, state_at(6))
    assert_equal(Checkpoints(tmp_path).restore(shapes()), state_at(6))
    assert_equal(restore_ema(experiment(), tmp_path)[1], state_at(6).ema_params)


def test_a_checkpoint_with_the_sums_of_before(tmp_path):
    """Checksums of the earlier form are still compared."""
    item = fields_of(state_at(6))
    sums = {name: plain_sum(value) for name, value in item.items()}
    write(tmp_path / "good", 6, {**item, "checksum": sums})
    assert_equal(Checkpoints(tmp_path / "good").restore(shapes()), state_at(6))
    write(tmp_path / "bad", 6, {**item, "params": params(3, 1), "checksum": sums})
    with pytest.raises(Damaged, match="params has another checksum"):
        Checkpoints(tmp_path / "bad").restore(shapes())


def test_a_checkpoint_under_the_number_of_another(tmp_path):
    """A checkpoint folder with another step in its name is refused.

    Otherwise a folder that was copied and renamed would change the step of a run.
    """
    save(tmp_path, 6).close()
    shutil.move(tmp_path / "checkpoints" / "6", tmp_path / "checkpoints" / "9")
    with pytest.raises(Damaged, match="is that of step 6 under another name"):
        Checkpoints(tmp_path).restore(shapes())
    with pytest.raises(Damaged, match="is that of step 6 under another name"):
        restore_ema(experiment(), tmp_path)


def test_parameters_of_half_the_precision(tmp_path):
    half = jax.tree.map(lambda leaf: leaf.astype(np.float16), params(3, 6))
    write(tmp_path, 6, {**fields_of(state_at(6)), "params": half})
    with pytest.raises(CheckpointError, match=r"has shape .* of float16 there"):
        Checkpoints(tmp_path).restore(shapes())


@pytest.mark.parametrize(
    "error",
    [
        PermissionError(13, "Permission denied"),
        OSError(5, "Input/output error"),
        OSError(107, "Transport endpoint is not connected"),
        OSError(121, "Remote I/O error"),
        ValueError("UNKNOWN: Stale file handle [d/1]"),
        ValueError("UNKNOWN: Connection timed out [d/1]"),
        MemoryError(),
        UnicodeEncodeError("ascii", "é", 0, 1, "ordinal not in range"),
    ],
)
def test_a_faulty_reader_is_not_a_damaged_checkpoint(tmp_path, monkeypatch, error):
    """After an error of reading, no checkpoint is moved, and the error advises no deletion."""
    checkpoints = save(tmp_path, 3, 6)

    def fails(*args, **kwargs):
        raise error

    monkeypatch.setattr(checkpoints._manager, "restore", fails)
    with pytest.raises(CheckpointError, match="could not be read here") as found:
        checkpoints.restore(shapes())
    assert not isinstance(found.value, Damaged) and "delete" not in str(found.value)
    monkeypatch.undo()
    assert_equal(checkpoints.restore(shapes()), state_at(6))


@pytest.mark.parametrize("name", ["run[1]", "run*", "run?"])
def test_a_workdir_that_is_a_pattern(tmp_path, name):
    with pytest.raises(CheckpointError, match="takes for a pattern"):
        Checkpoints(tmp_path / name)
    assert not (tmp_path / name).exists()


def test_what_a_save_claims_is_read_back(tmp_path, monkeypatch):
    """Where the library writes under a name that it does not find again, the first save says so."""
    monkeypatch.setattr("training.checkpoint.PATTERN", "")
    checkpoints = Checkpoints(tmp_path / "run[1]")
    checkpoints.save(state_at(3))
    with pytest.raises(CheckpointError, match=r"of step 3 was written to .* cannot be read back"):
        checkpoints.wait()
    checkpoints.close()


def test_it_is_read_back_once_a_run(tmp_path, monkeypatch):
    read, found = Checkpoints._read, []
    noted = lambda self, item, params, name, step: (
        found.append(step) or read(self, item, params, name, step)
    )
    monkeypatch.setattr(Checkpoints, "_read", noted)
    save(tmp_path, 3, 6, 9).close()
    assert found == [3]
