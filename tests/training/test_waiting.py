"""An evaluation waits for the checkpoints of a training run."""

from types import SimpleNamespace

import pytest

from training.checkpoint import CheckpointError, Damaged
from training.restore import restore_in_turn, steps_as_they_come


def test_checkpoints_that_are_awaited(monkeypatch):
    """Every checkpoint comes once and in order, also if training writes or deletes some between
    two looks."""
    looks = iter([[], [2], [2, 4], [4, 6, 8], [8, 10]])
    slept = []
    monkeypatch.setattr("training.restore.saved_steps", lambda workdir: next(looks))
    monkeypatch.setattr("training.restore.trains", lambda workdir: True)
    monkeypatch.setattr("time.sleep", slept.append)
    section = SimpleNamespace(begin_ckpt=3, end_ckpt=-1)
    assert list(steps_as_they_come(section, None, 10, 5.0)) == [4, 6, 8, 10]
    assert slept == [5.0, 5.0]
    looks = iter([[2, 4, 6]])
    assert list(steps_as_they_come(SimpleNamespace(begin_ckpt=0, end_ckpt=4), None, 10)) == [2, 4]


@pytest.mark.parametrize("found, words", [([], "is still to come"), ([2], "that of step 2")])
def test_a_wait_for_training_that_has_died_ends(tmp_path, monkeypatch, capsys, found, words):
    """A missing workdir counts as a workdir without training, and the wait ends with an error."""
    slept = []
    monkeypatch.setattr("training.restore.saved_steps", lambda workdir: found)
    monkeypatch.setattr("time.sleep", slept.append)
    section = SimpleNamespace(begin_ckpt=0, end_ckpt=-1)
    with pytest.raises(CheckpointError, match=f"No run has trained in .* for 60 s.*{words}"):
        list(steps_as_they_come(section, tmp_path / "gone", 10, 10.0, patience=60.0))
    assert sum(slept) == 60.0 and capsys.readouterr().out.count("waiting for one") == 1


def test_a_wait_for_a_range_that_no_checkpoint_is_in(tmp_path, monkeypatch):
    """A begin above the end is refused. An end between two snapshots ends the wait when the next
    snapshot appears."""
    with pytest.raises(CheckpointError, match=r"from eval\.begin_ckpt = 9 to 5"):
        next(steps_as_they_come(SimpleNamespace(begin_ckpt=9, end_ckpt=5), tmp_path, 10))
    looks = iter([[2], [2, 4], [2, 4], [2, 4, 6]])
    monkeypatch.setattr("training.restore.saved_steps", lambda workdir: next(looks))
    monkeypatch.setattr("training.restore.trains", lambda workdir: True)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    section = SimpleNamespace(begin_ckpt=0, end_ckpt=5)
    assert list(steps_as_they_come(section, tmp_path, 10)) == [2, 4]


def test_one_that_is_damaged_or_deleted_is_passed_over(monkeypatch, capsys):
    """Of the steps 2 to 8, 4 is damaged and 6 is gone when its turn comes."""

    def read(experiment, workdir, step):
        if step == 4:
            raise Damaged("The checkpoint 4 is not what was written.")
        if step == 6:
            raise CheckpointError("There is no checkpoint of step 6.")
        if step == 10:
            raise CheckpointError("Permission denied.")
        return step, "parameters"

    monkeypatch.setattr("training.restore.restore_ema", read)
    monkeypatch.setattr("training.restore.saved_steps", lambda workdir: [2, 4, 8, 10])
    found = restore_in_turn(None, "run", [2, 4, 6, 8])
    assert [step for step, _ in found] == [2, 8]
    assert capsys.readouterr().out == (
        "The checkpoint 4 is not what was written. It is passed over.\n"
        "The checkpoint of step 6 was deleted meanwhile. It is passed over.\n"
    )
    with pytest.raises(CheckpointError, match="None of the 2 checkpoints in run"):
        list(restore_in_turn(None, "run", [4, 6]))
    with pytest.raises(CheckpointError, match="Permission denied"):
        list(restore_in_turn(None, "run", [10]))
    assert list(restore_in_turn(None, "run", [])) == []
