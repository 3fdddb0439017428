"""A run that is killed and started again ends at the same state as an uninterrupted run."""

import jax
import numpy as np
import pytest
from program import inside
from tiny import flags

from builders.experiment import build
from parallel.mesh import make_mesh
from training.checkpoint import Checkpoints
from training.metrics import read_metrics
from training.restore import restore

# Dies as by kill -9 after the row of step argv[1] is written. The checkpoint before it is whole.
KILLED = """
import os, sys
import main
from absl import app
from training.checkpoint import Checkpoints
from training.metrics import MetricWriter

die_at = int(sys.argv.pop(1))
save, write = Checkpoints.save, MetricWriter.write

def save_to_the_end(self, *given):
    save(self, *given)
    self.wait()

def write_and_die(self, step, values):
    write(self, step, values)
    if step == die_at:
        os._exit(9)

Checkpoints.save, MetricWriter.write = save_to_the_end, write_and_die
app.run(main.main, flags_parser=main.parse_flags)
"""

# The batches have 16 of 36 images, so the kill falls into the middle of an epoch.
CHANGES = {
    "model__dropout": 0.25,
    "training__n_iters": 8,
    "training__snapshot_freq": 4,
    "training__log_freq": 3,
    "training__eval_freq": 2,
}


@pytest.fixture(scope="module")
def runs(program, images, tmp_path_factory):
    """Return `run(name, die_at=None, **changes)`, which trains in `<folder>/<name>` and returns
    this workdir."""
    folder = tmp_path_factory.mktemp("runs")

    def run(name, die_at=None, **changes):
        argv = ["--config", images, "--workdir", folder / name, "--mode", "train"]
        argv += flags(**CHANGES, **changes)
        if die_at is None:
            result = inside(*argv)
            assert result.status == 0, result.err
        else:
            result = program.script(KILLED, die_at, *argv)
            assert result.status == 9, result.err
        return folder / name

    return run


@pytest.fixture(scope="module")
def experiment(images_config):
    return build(images_config(**CHANGES))


@pytest.fixture(scope="module")
def uninterrupted(runs):
    return runs("uninterrupted")


def leaves(experiment, workdir):
    """All leaves of the last state by path, with random keys as their raw integers."""
    state = restore(experiment, Checkpoints(workdir), make_mesh())
    state = state.replace(key=jax.random.key_data(state.key))
    return {jax.tree_util.keystr(p): np.asarray(x) for p, x in jax.tree.leaves_with_path(state)}


def rows(workdir):
    """The rows without the times, which differ between any two runs."""
    times = ("seconds", "steps_per_second", "data_share", "action_seconds")
    return [{k: v for k, v in row.items() if k not in times} for row in read_metrics(workdir)]


def assert_same_run(experiment, a, b):
    x, y = leaves(experiment, a), leaves(experiment, b)
    assert x.keys() == y.keys() and len(x) > 40
    for path in x:
        np.testing.assert_array_equal(x[path], y[path], err_msg=path)
    assert rows(a) == rows(b)


def test_killed_and_resumed(runs, experiment, uninterrupted):
    killed = runs("killed", die_at=6)
    assert Checkpoints(killed).steps() == [4]
    assert [row["step"] for row in rows(killed)] == [2, 3, 4, 6]
    resumed = runs("killed")
    assert Checkpoints(resumed).steps() == [4, 8]
    assert [row["step"] for row in rows(resumed)] == [2, 3, 4, 6, 8]
    assert_same_run(experiment, uninterrupted, resumed)
    # The comparison above means something: the losses of the rows differ from each other.
    table = rows(resumed)
    assert len({row["training_loss"] for row in table}) == len(table)
    assert len({row["eval_loss"] for row in table if "eval_loss" in row}) == 4


def test_several_steps_a_call(runs, experiment, uninterrupted):
    """A run in scans of two steps, killed and resumed, equals the single steps up to rounding."""
    killed = runs("scan", die_at=6, training__n_jitted_steps=2)
    assert Checkpoints(killed).steps() == [4]
    scan = runs("scan", training__n_jitted_steps=2)
    x, y = leaves(experiment, uninterrupted), leaves(experiment, scan)
    for path in x:
        # One update moves a weight by up to 1e-3, so a step too many or too few would show.
        np.testing.assert_allclose(y[path], x[path], rtol=2e-4, atol=2e-6, err_msg=path)
    ours, theirs = ({r["step"]: r for r in rows(w)} for w in (scan, uninterrupted))
    # Step 3 has no row in the scanned run, so its row of step 4 is a mean over more steps.
    for step in (2, 6, 8):
        assert ours[step] == pytest.approx(theirs[step], rel=1e-5)


def test_a_finished_run_does_nothing(runs, uninterrupted):
    before = {p: p.stat().st_mtime_ns for p in (uninterrupted / "checkpoints").rglob("*")}
    table = rows(uninterrupted)
    runs("uninterrupted")
    assert {p: p.stat().st_mtime_ns for p in (uninterrupted / "checkpoints").rglob("*")} == before
    assert rows(uninterrupted) == table
