"""A loss, gradient or parameter that is not finite ends the run, and is in no checkpoint."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from program import inside
from tiny import flags

from data import Loader, from_array
from parallel.mesh import make_mesh, replicated
from training.checkpoint import Checkpoints
from training.finite import TrainingDiverged
from training.loop import Every, Schedule, crossed, train
from training.metrics import MetricWriter, read_metrics
from training.sharding import jit_step
from training.state import create_state
from training.step import make_train_step, scan_steps

N_ITERS, BATCH, SIZE = 12, 4, 48  # one epoch, in which every example occurs once


def linear_loss(params, state, key, batch):
    """Regress the last column on the others; a zero in the first column gives a NaN gradient."""
    del state
    x, y = batch["x0"][:, :-1], batch["x0"][:, -1]
    # At 0 the value of sqrt is finite, and its derivative is not.
    value = jnp.mean(
        (x @ params["w"] - y) ** 2 + 1e-3 * jnp.sqrt(x[:, 0] ** 2 * params["w"][0] ** 2)
    )
    return value, {"loss": value, "t": jax.random.uniform(key, y.shape)}


@jax.jit
def times(key, step):
    return jax.random.uniform(jax.random.fold_in(key, step), (BATCH,))


@functools.cache
def compiled(n_jitted, lr):
    """Return the step, and its compiled form for the loop."""
    step = make_train_step(linear_loss, optax.adam(lr), 0.9)
    return step, jit_step(scan_steps(step, n_jitted), make_mesh(), n_jitted)


@jax.jit
def start():
    """Return the first state in new buffers, because the step takes over its buffers."""
    return create_state({"w": jnp.ones(3)}, optax.adam(1.0), seed=1)


class Run:
    """A whole run of the loop on a linear model, with one example of the data replaced."""

    def __init__(
        self,
        workdir,
        example=None,
        n_jitted=1,
        log_freq=5,
        snapshot_freq=4,
        lr=0.1,
        max_skipped=0,
    ):
        data = np.random.default_rng(0).uniform(0.5, 1.0, (SIZE, 4)).astype(np.float32)
        self.bad_step = None
        if example is not None:
            data[17] = example
        loader = Loader(from_array("made", "train", data, None, 0), BATCH, seed=5)
        if example is not None:
            (self.bad_step,) = [n for n in range(N_ITERS) if 17 in loader.indices(n)]
            assert 2 < self.bad_step < N_ITERS - 1
        mesh, self.loader = make_mesh(), loader
        self.step, jitted = compiled(n_jitted, lr)
        state = self.state = start()
        self.abstract = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=replicated(mesh)), state
        )
        self.workdir, self.key = workdir, jax.random.key(1)
        self.actions = []
        workdir.mkdir(exist_ok=True)
        self.call = lambda: train(
            jitted,
            jax.device_put(start(), replicated(mesh)),
            loader,
            Checkpoints(workdir),
            MetricWriter(workdir),
            mesh=mesh,
            schedule=Schedule(N_ITERS, n_jitted, log_freq, snapshot_freq, max_skipped, False),
            actions=(Every(2, self.act),),
        )

    def act(self, state):
        self.actions.append(int(state.step))
        return {}

    def times(self, step):
        return np.asarray(times(self.key, step))

    def assert_good_before(self, step):
        """Assert that nothing after `step` is on disk, and that everything on disk is finite."""
        checkpoints = Checkpoints(self.workdir)
        assert all(saved <= step for saved in checkpoints.steps())
        for saved in checkpoints.steps():
            for leaf in jax.tree.leaves(
                checkpoints.restore(self.abstract, saved).replace(key=None)
            ):
                assert np.isfinite(leaf).all()
        for row in read_metrics(self.workdir):
            assert row["step"] <= step and np.isfinite([*row.values()]).all(), row
        assert all(acted <= step for acted in self.actions)


EXAMPLES = {"nan": np.nan, "huge": 3e38, "grad": [0.0, 0.7, 0.7, 0.7]}
FREQUENCIES = [(1, 4), (5, 4), (100, 100)]
# Examples and frequencies in all combinations, with one or three steps per call.
PAIRS = [
    (name, *frequencies, 1 + 2 * ((i + j) % 2))
    for i, name in enumerate(EXAMPLES)
    for j, frequencies in enumerate(FREQUENCIES)
]


@pytest.mark.parametrize("name, log_freq, snapshot_freq, n_jitted", PAIRS)
def test_names_the_first_bad_step_and_its_times(tmp_path, name, log_freq, snapshot_freq, n_jitted):
    example = EXAMPLES[name]
    run = Run(tmp_path, example, n_jitted, log_freq, snapshot_freq)
    with pytest.raises(TrainingDiverged) as error:
        run.call()
    text, times = str(error.value), run.times(run.bad_step)
    assert f"diverged at step {run.bad_step}:" in text
    assert f"{BATCH} times in [{times.min():.3g}, {times.max():.3g}]" in text
    assert ", ".join(f"{t:.3g}" for t in np.sort(times)) in text
    assert ("gradient norm nan" in text) and ("loss nan" in text) == (name == "nan")
    assert "\n" not in text
    run.assert_good_before(run.bad_step)
    expected = [
        s
        for s in range(n_jitted, run.bad_step + 1, n_jitted)
        if crossed(s - n_jitted, s, snapshot_freq)
    ]
    assert Checkpoints(tmp_path).steps() == expected


def test_without_a_bad_example_it_ends(tmp_path):
    run = Run(tmp_path)
    assert run.call().step == N_ITERS
    assert Checkpoints(tmp_path).steps() == [4, 8, 12]
    # A row at each multiple of 5 (log), 4 (checkpoint) and 2 (action), and at the end.
    assert [row["step"] for row in read_metrics(tmp_path)] == [2, 4, 5, 6, 8, 10, 12]
    run.assert_good_before(N_ITERS)
    assert run.actions == [2, 4, 6, 8, 10, 12]


@pytest.mark.parametrize("snapshot_freq", [1, 4, 12])
def test_an_update_that_overflows_is_not_saved(tmp_path, snapshot_freq):
    """A state whose loss was finite but whose update overflowed is not saved."""
    run = Run(tmp_path, lr=float("inf"), snapshot_freq=snapshot_freq)
    with pytest.raises(TrainingDiverged, match=r"step \d+:") as error:
        run.call()
    step = int(re.search(r"step (\d+):", str(error.value))[1])
    # The error is found when the parameters are saved, or else by the next loss.
    assert step == (0 if snapshot_freq == 1 else 1)
    assert Checkpoints(tmp_path).steps() == []


def test_rows_average_the_steps_since_the_last(tmp_path):
    """Rows of a run that logs rarely are means of the rows of a run that logs every step."""
    Run(tmp_path / "each", log_freq=1).call()
    Run(tmp_path / "seldom", log_freq=5).call()
    table = {row["step"]: row for row in read_metrics(tmp_path / "each")}
    assert sorted(table) == list(range(1, 13))
    for row in read_metrics(tmp_path / "seldom"):
        before = {2: 1, 4: 3, 5: 5, 6: 6, 8: 7, 10: 9, 12: 11}[row["step"]]
        steps = range(before, row["step"] + 1)
        for key in ("training_loss", "grad_norm"):
            mean = np.mean([table[step][key] for step in steps])
            assert row[key] == pytest.approx(mean, rel=1e-6)


@pytest.mark.parametrize("n_jitted", [1, 3])
@pytest.mark.parametrize("log_freq", [1, 5])
def test_a_bad_step_is_skipped(tmp_path, n_jitted, log_freq):
    """A bad step only increases the step number; it is counted, and left out of the means."""
    run = Run(tmp_path / "skipping", np.nan, n_jitted, log_freq, max_skipped=1)
    state = run.call()
    assert state.step == N_ITERS
    # By hand: the same updates without the bad step; the other steps keep their keys.
    step, expected = jax.jit(run.step), run.state
    for n in range(N_ITERS):
        before, expected = expected, step(expected, run.loader.batch(n))[0]
        if n == run.bad_step:
            expected = before.replace(step=expected.step)
    for name in ("params", "ema_params", "opt_state"):
        for a, b in zip(*(jax.tree.leaves(getattr(s, name)) for s in (state, expected))):
            np.testing.assert_allclose(a, b, rtol=1e-6)
    rows = read_metrics(tmp_path / "skipping")
    assert sum(row.get("skipped", 0) for row in rows) == 1
    assert np.isfinite([row["training_loss"] for row in rows if "training_loss" in row]).all()
    assert Checkpoints(tmp_path / "skipping").latest() == N_ITERS


def test_too_many_in_a_row(tmp_path):
    """With `max_skipped` 2, three bad steps in a row end the run; a good step resets the count."""
    run = Run(tmp_path, log_freq=12, snapshot_freq=12, max_skipped=2)
    bad = {2, 3, 5, 6, 8, 9, 10}
    batch = Loader.batch
    spoil = lambda self, n: jax.tree.map(
        lambda v: v * np.nan if n in bad and v.dtype == np.float32 else v, batch(self, n)
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Loader, "batch", spoil)
        with pytest.raises(TrainingDiverged, match=r"at step 10: .* the 3rd such step in a row"):
            run.call()
        bad.remove(9)
        assert Run(tmp_path / "b", log_freq=12, max_skipped=2).call().step == N_ITERS


def test_crossed():
    for n_jitted in (1, 2, 3, 7):
        for freq in (1, 2, 5, 7):
            for before in range(0, 70, n_jitted):
                steps = range(before + 1, before + n_jitted + 1)
                assert crossed(before, before + n_jitted, freq) == any(s % freq == 0 for s in steps)
    assert not crossed(0, 10**9, 0)


def test_the_program_says_it_in_one_line(tmp_path):
    argv = ["--config", "configs/digits_vp.py", "--workdir", tmp_path / "run", "--mode", "train"]
    changes = {"optim__lr": 1e30, "training__snapshot_freq": 1, "training__max_skipped": 0}
    result = inside(*argv, *flags(**changes))
    assert result.status == 1
    (line,) = result.err.splitlines()
    assert line.startswith("TrainingDiverged: Training diverged at step ")
    rows = read_metrics(tmp_path / "run")
    step = int(re.search(r"step (\d+):", line)[1])
    assert all(row["step"] <= step and np.isfinite(row["training_loss"]) for row in rows)
    assert all(saved <= step for saved in Checkpoints(tmp_path / "run").steps())
