"""An error between two steps ends a run. The state is saved first, and the error says so."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from PIL import Image
from tiny import flags

from data import Loader, from_array
from parallel.mesh import make_mesh, replicated
from training import keeping
from training.checkpoint import CheckpointError, Checkpoints
from training.finite import TrainingDiverged
from training.loop import Every, Schedule, train
from training.metrics import MetricWriter, read_metrics
from training.sharding import jit_step
from training.state import create_state
from training.step import make_train_step

N_ITERS, SNAPSHOTS = 12, 4
DATA = np.random.default_rng(0).uniform(0.5, 1.0, (48, 4)).astype(np.float32)


def square_loss(params, state, key, batch):
    del state
    x, y = batch["x0"][:, :-1], batch["x0"][:, -1]
    value = jnp.mean((x @ params["w"] - y) ** 2)
    return value, {"loss": value, "t": jax.random.uniform(key, y.shape)}


@pytest.fixture(scope="module")
def run():
    """Return `run(workdir, action=, writer=, step=, minutes=)`: the loop from the last checkpoint
    of the workdir, with the action after every third step. All runs share one compiled program."""
    tx, mesh = optax.adam(0.1), make_mesh()
    step = jit_step(make_train_step(square_loss, tx, 0.9), mesh, 1)
    first = jax.device_put(create_state({"w": jnp.ones(3)}, tx, seed=1), replicated(mesh))
    like = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), first
    )

    def run(workdir, action=lambda state: {}, writer=MetricWriter, step=step, minutes=0.0):
        workdir.mkdir(exist_ok=True)
        checkpoints = Checkpoints(workdir)
        here = checkpoints.latest() is not None
        state = checkpoints.restore(like) if here else jax.tree.map(jnp.copy, first)
        try:
            return train(
                step, state, Loader(from_array("made", "train", DATA, None, 0), 4, seed=5),
                checkpoints, writer(workdir), mesh=mesh, actions=(Every(3, action),),
                schedule=Schedule(N_ITERS, 1, log_freq=5, snapshot_freq=SNAPSHOTS, progress=False,
                                  save_minutes=minutes),
            )  # fmt: skip
        finally:
            checkpoints.close()

    run.step = step
    return run


@pytest.fixture(scope="module")
def whole(run, tmp_path_factory):
    """The last parameters of an undisturbed run."""
    return jax.device_get(run(tmp_path_factory.mktemp("whole")).params["w"])


def fails_at(step, error):
    """Return an action that raises `error` after this step."""

    def action(state):
        if int(state.step) == step:
            raise error
        return {}

    return action


@pytest.mark.parametrize("step", [3, 6, 12])
def test_an_action_that_fails(run, whole, tmp_path, step):
    """Step 12 is also a snapshot, so its checkpoint exists before the action fails."""
    error = ZeroDivisionError("a picture of nothing")
    with pytest.raises(ZeroDivisionError) as raised:
        run(tmp_path, fails_at(step, error))
    assert raised.value is error
    (note,) = error.__notes__
    assert f"checkpoint of step {step} is written" in note and "same command goes on" in note
    assert Checkpoints(tmp_path).steps() == [*range(SNAPSHOTS, step, SNAPSHOTS), step]
    np.testing.assert_array_equal(run(tmp_path).params["w"], whole)


@pytest.mark.parametrize("step", [0, 2, 4, 7])
def test_data_that_cannot_be_read(run, whole, tmp_path, monkeypatch, step):
    """Batch `step` cannot be read: the checkpoint of `step` is written, but not that of step 0."""
    read = Loader.batch

    def batch(self, n):
        if n == step:
            raise ValueError("x.png cannot be read")
        return read(self, n)

    with monkeypatch.context() as patch, pytest.raises(ValueError, match=r"x\.png") as raised:
        patch.setattr(Loader, "batch", batch)
        run(tmp_path)
    notes = "".join(getattr(raised.value, "__notes__", []))
    assert (f"checkpoint of step {step} is written" in notes) == (step > 0)
    assert Checkpoints(tmp_path).latest() == (step or None)
    # The losses up to the saved step are logged.
    assert [row["step"] for row in read_metrics(tmp_path)][-1:] == [step][: step > 0]
    np.testing.assert_array_equal(run(tmp_path).params["w"], whole)


def test_a_row_that_cannot_be_written(run, whole, tmp_path):
    class Full(MetricWriter):
        def write(self, step, values):
            if step == 5:
                raise OSError("The row of step 5 could not be written.")
            super().write(step, values)

    with pytest.raises(OSError, match="row of step 5") as raised:
        run(tmp_path, writer=Full)
    assert "checkpoint of step 5 is written" in raised.value.__notes__[0]
    np.testing.assert_array_equal(run(tmp_path).params["w"], whole)


class Killed(BaseException):
    """Ends a run as a kill does, without a last checkpoint."""


def test_a_checkpoint_by_wall_time(run, whole, tmp_path, monkeypatch):
    """Each step takes a minute. The checkpoint of step 6 is there when the run is killed, the run
    goes on from it, and only the snapshots are left."""
    now = [0.0]
    monkeypatch.setattr(keeping.time, "monotonic", lambda: now[0])

    def step(state, batch):
        now[0] += 60.0
        return run.step(state, batch)

    with pytest.raises(Killed):
        run(tmp_path, fails_at(6, Killed()), step=step, minutes=2.0)
    # Two minutes after the snapshot of step 4; step 2 was replaced by it.
    assert Checkpoints(tmp_path).steps() == [4, 6]
    steps = []

    def noted(state, batch):
        steps.append(int(state.step))
        return step(state, batch)

    np.testing.assert_array_equal(run(tmp_path, step=noted, minutes=2.0).params["w"], whole)
    assert steps == [6, 7, 8, 9, 10, 11]
    assert Checkpoints(tmp_path).steps() == [4, 8, 12]


def test_a_state_that_is_not_finite_is_not_saved(run, tmp_path):
    """The loss of step 2 is finite, but the parameters after its update are NaN."""

    def step(state, batch):
        state, metrics = run.step(state, batch)
        bad = jax.tree.map(lambda x: x * jnp.nan, state.params)
        return (state.replace(params=bad) if int(state.step) == 3 else state), metrics

    with pytest.raises(ValueError) as raised:
        run(tmp_path, fails_at(3, ValueError("the picture is not finite")), step=step)
    (note,) = raised.value.__notes__
    assert "could not be saved: Training diverged at step 2" in note
    assert Checkpoints(tmp_path).steps() == []


def test_a_step_that_takes_its_state_with_it(run, tmp_path):
    """The buffers of a state donated to a failed step are gone, so this state is not saved."""

    def step(state, batch):
        if int(state.step) == 6:
            jax.tree.map(lambda x: x.delete(), (state.params, state.ema_params))
            raise RuntimeError("out of memory")
        return run.step(state, batch)

    with pytest.raises(RuntimeError, match="out of memory") as raised:
        run(tmp_path, step=step)
    assert "last checkpoint could not be saved" in raised.value.__notes__[0]
    assert Checkpoints(tmp_path).steps() == [4]


@pytest.mark.parametrize("error", [TrainingDiverged("Bad."), CheckpointError("No room.")])
def test_errors_that_say_all_themselves(run, tmp_path, error):
    with pytest.raises(type(error)) as raised:
        run(tmp_path, fails_at(6, error))
    assert not hasattr(raised.value, "__notes__")
    assert Checkpoints(tmp_path).steps() == [4]


PICTURES = """
from configs.base import base
def get_config():
    config = base('vp', 'mlp', 'image_folder')
    config.data.path = {folder!r}
    return config
"""
# Damages or deletes a picture when the row of step 2 is written.
HARM = """
import os, sys
import main
from absl import app
from training.metrics import MetricWriter

what, file = sys.argv.pop(1), sys.argv.pop(1)
write = MetricWriter.write

def harm(self, step, values):
    if step == 2 and os.path.exists(file):
        os.unlink(file) if what == "gone" else open(file, "w").write("no picture")
    write(self, step, values)

MetricWriter.write = harm
app.run(main.main, flags_parser=main.parse_flags)
"""


@pytest.mark.slow
@pytest.mark.parametrize("what", ["gone", "broken"])
def test_a_picture_that_is_lost_on_the_way(program, tmp_path, what):
    """The error is one line that names the file. With the file back the same command goes on."""
    folder = tmp_path / "pictures"
    rng = np.random.default_rng(0)
    for split, count in (("train", 24), ("test", 4)):
        (folder / split).mkdir(parents=True)
        for i in range(count):
            pixels = rng.integers(0, 256, (8, 8), np.uint8)
            Image.fromarray(pixels).save(folder / split / f"{i:02}.png")
    (tmp_path / "config.py").write_text(PICTURES.format(folder=str(folder)))
    # Each of the three epochs reads this file, and the last is not read ahead during the first.
    file = folder / "train" / "00.png"
    content = file.read_bytes()
    argv = ["--config", tmp_path / "config.py", "--workdir", tmp_path / "run", "--mode", "train"]
    small = {"training__batch_size": 8, "training__n_iters": 9, "training__snapshot_freq": 0}
    argv += flags(**small)
    result = program.script(HARM, what, file, *argv)
    assert result.status == 1
    (line,) = result.err.splitlines()
    assert f"{file} cannot be read as an image" in line
    (step,) = Checkpoints(tmp_path / "run").steps()
    assert 2 <= step < 9 and f"checkpoint of step {step} is written" in line
    file.write_bytes(content)
    result = program(*argv)
    assert result.status == 0 and f"from step {step} to 9" in result.out, result.err
