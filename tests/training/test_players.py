"""Several networks in one training step: a game with known updates, and a frozen teacher."""

import dataclasses
import functools
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small_states import assert_equal
from tiny import tiny

from builders.experiment import build
from parallel.mesh import abstract, make_mesh, replicated
from training.checkpoint import Checkpoints
from training.finite import Watch
from training.metrics import read_metrics
from training.restore import initial
from training.run import run_training
from training.sharding import jit_step
from training.state import create_state
from training.step import MAIN, Player, make_train_step

# x lowers and y raises `mean(batch) x . A y`. A quadratic penalty on each keeps both bounded.
A = np.array([[1.0, 0.5], [-0.3, 0.8]], np.float32)
X, Y = np.array([1.0, -2.0], np.float32), np.array([0.5, 1.5], np.float32)
RATE_X, RATE_Y, DECAY_X, DECAY_Y = 0.1, 0.05, 0.9, 0.5


def loss_of_x(params, others, key, batch):
    x, y, b = params["x"], others["critic"]["y"], jnp.mean(batch["x0"])
    value = b * x @ A @ y + 0.5 * jnp.sum(x**2)
    return value, {"loss": value, "t": batch["x0"]}


def loss_of_y(params, others, key, batch):
    x, y, b = others[MAIN]["x"], params["y"], jnp.mean(batch["x0"])
    value = -b * x @ A @ y + jnp.sum(y**2)
    return value, {"loss": value}


TX, TY = optax.sgd(RATE_X), optax.sgd(RATE_Y)


def start():
    return create_state({"x": jnp.asarray(X)}, TX, 0, {"critic": ({"y": jnp.asarray(Y)}, TY)})


@functools.cache
def stepper(every=1, accumulate=1):
    others = {"critic": Player(loss_of_y, TY, DECAY_Y, every)}
    return jax.jit(make_train_step(loss_of_x, TX, DECAY_X, accumulate, others))


def batches(n):
    return [{"x0": b} for b in np.random.default_rng(0).normal(1.0, 0.3, (n, 4)).astype("f4")]


def by_hand(n, every):
    """Compute the same updates in NumPy: first x, then y with the new x."""
    x, y, mean_x, mean_y = (np.float64(v) for v in (X, Y, X, Y))
    for i, batch in enumerate(batches(n)):
        b, rate = batch["x0"].mean(), (1.0 + i) / (10.0 + i)
        turns = (1.0 + i // every) / (10.0 + i // every)
        x = x - RATE_X * (b * A @ y + x)
        mean_x = mean_x + (1.0 - min(DECAY_X, rate)) * (x - mean_x)
        if i % every == 0:
            y = y - RATE_Y * (-b * A.T @ x + 2.0 * y)
            mean_y = mean_y + (1.0 - min(DECAY_Y, turns)) * (y - mean_y)
    return x, y, mean_x, mean_y


def run(state, given, step):
    for batch in given:
        state, metrics = step(state, batch)
    return state, metrics


@pytest.mark.parametrize("every", [1, 3])
def test_the_moves_of_a_game(every):
    state, _ = run(start(), batches(12), stepper(every))
    critic = state.others["critic"]
    found = (state.params["x"], critic.params["y"], state.ema_params["x"], critic.ema_params["y"])
    for ours, truth in zip(found, by_hand(12, every)):
        np.testing.assert_allclose(ours, truth, rtol=1e-5, atol=1e-6)
    assert int(state.step) == 12


def test_passes_over_parts_of_a_batch_are_one_pass():
    """The gradients are linear in the batch mean, so four passes give the update of one pass."""
    one, four = (run(start(), batches(5), stepper(1, n))[0] for n in (1, 4))
    for a, b in zip(
        jax.tree.leaves((one.params, one.others)), jax.tree.leaves((four.params, four.others))
    ):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


def test_interrupted_and_resumed(tmp_path):
    """A checkpoint restores the critic, its average and its optimizer too, bit for bit."""
    given, mesh = batches(8), make_mesh()
    whole, _ = run(start(), given, stepper(3))
    state, _ = run(start(), given[:5], stepper(3))
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(jax.device_put(state, replicated(mesh)))
    checkpoints.wait()
    checkpoints.close()
    resumed = Checkpoints(tmp_path).restore(abstract(start, mesh))
    assert_equal(run(resumed, given[5:], stepper(3))[0], whole)


def test_a_player_that_waits_costs_nothing():
    """In a step where the critic does not move, its metrics are zero and do not enter the means.
    Its loss would be NaN in this step, but the step is not skipped."""

    def bad(params, others, key, batch):
        value, _ = loss_of_y(params, others, key, batch)
        value = jnp.where(batch["x0"][0] > 0.0, value, jnp.nan)
        return value, {"loss": value}

    step = jax.jit(make_train_step(loss_of_x, TX, DECAY_X, 1, {"critic": Player(bad, TY, 0.5, 2)}))
    good, ill = {"x0": np.ones(4, np.float32)}, {"x0": -np.ones(4, np.float32)}
    state, first = step(start(), good)
    state, second = step(state, ill)
    assert second["critic_loss"] == second["critic_turns"] == 0.0 and int(state.step) == 2
    assert not np.array_equal(state.params["x"], X)
    row = Watch(0).read([(0, first), (1, second)])
    assert "skipped" not in row
    assert row["critic_loss"] == pytest.approx(float(first["critic_loss"]))


def test_a_step_is_skipped_for_all_or_for_none():
    """Only the critic's loss is NaN: no network is updated, and `Watch` counts a skipped step."""

    def bad(params, others, key, batch):
        value, _ = loss_of_y(params, others, key, batch)
        value = jnp.where(batch["x0"][0] > 0.0, value, jnp.nan)
        return value, {"loss": value}

    others = {"critic": Player(bad, TY, DECAY_Y)}
    step = jax.jit(make_train_step(loss_of_x, TX, DECAY_X, 1, others))
    good, ill = {"x0": np.ones(4, np.float32)}, {"x0": -np.ones(4, np.float32)}
    before, _ = step(start(), good)
    after, metrics = step(before, ill)
    assert int(after.step) == 2
    assert_equal(after.replace(step=before.step), before)
    assert np.isfinite(metrics["loss"]) and not np.isfinite(metrics["critic_loss"])
    _, fine = step(before, good)
    watch = Watch(5)
    row = watch.read([(1, fine), (2, metrics)])
    assert row["skipped"] == 1 and row["training_loss"] == pytest.approx(float(fine["loss"]))
    assert row["critic_grad_norm"] == pytest.approx(float(fine["critic_grad_norm"]))


SIZE = 300


def distil(params, others, key, batch):
    """Half the squared distance to a teacher. One step at the rate 1/2 goes half of the way."""
    value = 0.5 * jnp.sum((params["w"] - others["teacher"]["w"]) ** 2)
    return value, {"loss": value, "t": batch["x0"]}


def test_a_teacher_is_an_argument_of_the_program():
    """Another teacher of the same shape uses the same program, and the program's text does not
    contain the teacher's values."""
    tx = optax.sgd(0.5)
    make = lambda: create_state({"w": jnp.zeros((SIZE, SIZE))}, tx, 0)
    step = jit_step(make_train_step(distil, tx, 0.9), make_mesh(), has_frozen=True)
    teachers = [{"teacher": {"w": np.full((SIZE, SIZE), v, np.float32)}} for v in (1.0, -3.0)]
    batch = {"x0": np.ones(4, np.float32)}
    ends = [step(make(), batch, teacher)[0].params["w"] for teacher in teachers]
    for found, teacher in zip(ends, teachers):
        np.testing.assert_allclose(found, 0.5 * teacher["teacher"]["w"], rtol=1e-6)
    assert step._cache_size() == 1
    assert len(step.lower(make(), batch, teachers[0]).as_text()) < 4 * SIZE**2


def critic_loss(params, others, key, batch):
    """Squared distance of the critic to the main network's mean weight plus the teacher."""
    mean = jnp.mean(jax.flatten_util.ravel_pytree(others[MAIN])[0])
    value = jnp.sum((params["y"] - mean - others["teacher"]["w"]) ** 2)
    return value, {"loss": value}


def test_a_run_of_two_networks_goes_on_where_it_stopped(tmp_path):
    """Without its last checkpoint the run goes on from step 3 and ends at the same state."""
    player = Player(critic_loss, optax.adam(0.1), 0.9)
    experiment = dataclasses.replace(
        build(tiny()),
        others={"critic": (lambda key: {"y": jax.random.normal(key, (2,))}, player)},
        frozen=lambda: {"teacher": {"w": jnp.array([0.3, -0.3])}},
    )
    whole = run_training(experiment, tmp_path)
    first = Checkpoints(tmp_path).restore(abstract(lambda: initial(experiment), make_mesh()), 3)
    assert float(jnp.abs(first.others["critic"].params["y"]).sum()) > 0.0
    shutil.rmtree(tmp_path / "checkpoints" / "6")
    again = run_training(experiment, tmp_path)
    assert_equal(again, whole)
    rows = read_metrics(tmp_path)
    assert all(np.isfinite(row["critic_loss"]) for row in rows) and len(rows) == 6
