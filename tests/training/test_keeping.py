"""Snapshots that are kept, and checkpoints by wall time, which the next one replaces."""

from types import SimpleNamespace

import jax
import pytest
from small_states import assert_equal, shapes, state_at

from training import keeping
from training.checkpoint import Checkpoints
from training.keeping import Keeping, WallTime

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


def kept(steps, *passing, **options):
    policy = Keeping(passing=set(passing), **options)
    there = [SimpleNamespace(step=step) for step in steps]
    found = policy.should_preserve(there, context=None)
    return [step for step, wanted in zip(steps, found, strict=True) if wanted]


def test_which_are_kept():
    steps = [10, 20, 30, 40, 50, 60, 70]
    assert kept(steps) == steps and kept([]) == []
    assert kept(steps, newest=2) == [60, 70]
    assert kept(steps, newest=9) == steps
    assert kept(steps, newest=1, every=30) == [30, 60, 70]
    assert kept(steps, every=30) == steps
    # Those by wall time are not counted among the newest, nor kept for good at a multiple.
    assert kept([10, 20, 25, 30, 33], 25, 33) == [10, 20, 30, 33]
    assert kept([10, 20, 25, 30, 33], 25, 33, newest=1) == [30, 33]
    assert kept([10, 20, 30, 40], 20, 30, newest=1, every=20) == [40]
    # In blocks of 6 steps, the multiples 10, 20, ..., 50 lie before the ends 12, 24, ..., 54.
    assert kept([12, 24, 30, 42, 54], newest=1, every=20, block=6) == [24, 42, 54]


def save(checkpoints, step, passing=False):
    checkpoints.save(state_at(step), passing)
    checkpoints.wait()
    return checkpoints.steps()


def test_the_next_checkpoint_replaces_one_by_wall_time(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2, keep_every=6)
    assert save(checkpoints, 2) == [2]
    assert save(checkpoints, 3, passing=True) == [2, 3]
    assert save(checkpoints, 5, passing=True) == [2, 5]
    assert_equal(checkpoints.restore(shapes()), state_at(5))
    assert save(checkpoints, 6) == [2, 6]
    assert save(checkpoints, 7, passing=True) == [2, 6, 7]
    checkpoints.close()
    # Another process finds the mark.
    checkpoints = Checkpoints(tmp_path, keep=2, keep_every=6)
    assert checkpoints.steps() == [2, 6, 7]
    assert save(checkpoints, 8) == [6, 8]
    assert save(checkpoints, 9) == [6, 8, 9]
    assert save(checkpoints, 10) == [6, 9, 10]
    assert sorted(f.name for f in (tmp_path / "checkpoints").iterdir()) == ["10", "6", "9"]


def test_one_whose_mark_is_damaged_is_kept(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    save(checkpoints, 3, passing=True)
    checkpoints.close()
    (tmp_path / "checkpoints" / "3" / "_CHECKPOINT_METADATA").write_text("no mark")
    assert save(Checkpoints(tmp_path), 4) == [3, 4]


@pytest.fixture
def minutes(monkeypatch):
    """A clock that a test sets, in minutes."""
    now = SimpleNamespace(value=100.0)
    monkeypatch.setattr(keeping.time, "monotonic", lambda: 60.0 * now.value)
    return now


def test_wall_time(minutes):
    time, never = WallTime(5.0), WallTime(0.0)
    for passed, due in ((4.9, False), (5.0, True), (7.0, True)):
        minutes.value = 100.0 + passed
        assert (time.due(meeting=False), never.due(meeting=False)) == (due, False)
    time.restart()
    assert not time.due(meeting=False)
    minutes.value += 5.0
    assert time.due(meeting=False)


def test_the_clock_of_the_lead_decides_in_a_job(minutes, monkeypatch):
    """They agree where they meet alone: elsewhere a message of one would find no other."""
    said = []
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(keeping, "agreed", lambda own: said.append(own) or lead)
    time = WallTime(5.0)
    minutes.value += 6.0
    for lead in (True, False):
        assert not time.due(meeting=False)
        assert time.due(meeting=True) is lead
    assert said == [True, True]
