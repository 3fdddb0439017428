"""A loss that needs pairs, a teacher and a critic says so, and gets them from the config."""

import shutil

import jax.numpy as jnp
import numpy as np
import pytest
from small_states import assert_equal
from tiny import tiny

import losses
from builders.experiment import build
from builders.stored import stored_config
from configs.base import base, player
from data import Loader
from losses.needs import MAIN, needs
from training.metrics import read_metrics
from training.restore import restore_ema
from training.run import run_training

STEPS, EXACT = 4, {"data__uniform_dequantization": False}


@needs(teachers=("teacher",), players=("critic",), second=True)
def duel(path, network, teacher, critic, *, weight: float = 1.0):
    """The network is drawn to the other ends and to the teacher, and away from the critic."""

    def states(batch):
        t = jnp.linspace(path.t0, path.t1, len(batch["x0"]))
        return path.marginal(batch["x0"], jnp.zeros_like(batch["x0"]), t), t

    def main(params, others, key, batch):
        x, t = states(batch)
        out, told = network(params, x, t, key), teacher(others["teacher"])(x, t).x0
        judged = jnp.mean(critic(others["critic"], out, t, key))
        value = jnp.mean((out - batch["x1"]) ** 2) + weight * jnp.mean((out - told) ** 2) + judged
        return value, {"loss": value, "t": t}

    def judge(params, others, key, batch):
        x, t = states(batch)
        out = network(others[MAIN], x, t, key)
        value = jnp.mean((critic(params, out, t, key) - 1.0) ** 2)
        return value, {"loss": value}

    return {MAIN: main, "critic": judge}


@pytest.fixture
def ours(tmp_path, monkeypatch):
    """A config of that loss, whose second ends are images of 12 of 255."""
    monkeypatch.setitem(losses.LOSSES, "duel", duel)
    teacher = tiny(training__n_iters=2, training__snapshot_freq=2, **EXACT)
    run_training(build(teacher), tmp_path / "teacher")
    levels = np.full((40, 8, 8, 1), 12, np.uint8)
    np.savez(tmp_path / "second.npz", x=levels)
    return config(tmp_path)


def config(folder):
    """A new config of the loss: what a file of it would return."""
    found = tiny(training__n_iters=STEPS, training__snapshot_freq=2, **EXACT)
    found.loss.duel = {"teacher": str(folder / "teacher"), "weight": 0.5}
    found.loss.name = "duel"
    found.data2 = {"dataset": "npz", "path": str(folder / "second.npz")}
    found.players.critic = player("mlp")
    found.players.critic.update({"every": 2, "ema_rate": 0.5})
    found.players.critic.model.update({"width": 16, "depth": 1, "time_dim": 16})
    return found


def test_pairs_a_teacher_and_a_critic_from_a_config(ours, tmp_path):
    experiment, folder = build(ours), tmp_path / "run"
    whole = run_training(experiment, folder)
    rows = [row for row in read_metrics(folder) if "training_loss" in row]
    # The critic has its turn at every second step.
    turns = [np.isfinite(row["critic_loss"]) for row in rows if "critic_loss" in row]
    assert len(rows) == STEPS and turns == [True, True]
    assert experiment.second.levels == 256 != experiment.train.levels
    teacher = build(stored_config(tmp_path / "teacher"))
    step, params = restore_ema(teacher, tmp_path / "teacher")
    x0 = teacher.scaler.to_model(None, Loader(teacher.train, 16, ours.seed).batch(0)["x0"])
    t = jnp.linspace(teacher.path.t0, teacher.path.t1, 16)
    x = teacher.path.marginal(x0, jnp.zeros_like(x0), t)
    told = float(jnp.mean(teacher.predict(params)(x, t).x0 ** 2))
    # Networks begin with 0, and so does the critic; the second ends are all 12 of 0 to 255.
    first = (12 / 127.5 - 1) ** 2 + 0.5 * told
    assert step == 2 and rows[0]["training_loss"] == pytest.approx(first, rel=1e-5)
    assert rows[0]["critic_loss"] == pytest.approx(1.0, rel=1e-6)
    # The critic is a part of the state, and the teacher is none.
    assert whole.others.keys() == {"critic"}
    # The run goes on where it stopped, from its own config.json, bit for bit.
    shutil.rmtree(folder / "checkpoints" / str(STEPS))
    assert_equal(run_training(build(stored_config(folder)), folder), whole)
    # A run that is trained is sampled from without its teacher and without the pairs.
    shutil.rmtree(tmp_path / "teacher")
    (tmp_path / "second.npz").unlink()
    trained = build(stored_config(folder), reads_data=False)
    x = trained.predict(whole.ema_params)(jnp.ones((1, 8, 8, 1)), jnp.full(1, 0.5)).x0
    assert np.isfinite(x).all()
    with pytest.raises(FileNotFoundError, match=r"--config\.data2\.path=PATH"):
        build(stored_config(folder))


def change_data2(config):
    config.data2 = {"dataset": "none"}


def change_loss(config):
    config.loss.name = "denoising"


def change_extra(config):
    config.players.judge = player("mlp")


def change_teacher(config):
    config.loss.duel.teacher = ""


def change_players(config):
    del config.players["critic"]


def change_turns(config):
    config.players.critic.every = 0


def change_network(config):
    config.players.critic.model.depth = 0


@pytest.mark.parametrize(
    "change, sentence",
    [
        (change_data2, r"'duel', which trains on pairs, digits has no second ends, and data2\.d"),
        (
            change_loss,
            r"data2\.dataset is 'npz', and loss\.name = 'denoising' reads no",
        ),
        (change_extra, r"players\.judge is set, and loss\.name = 'duel' trains no such network"),
        (change_teacher, r"loss\.duel\.teacher is empty; train a teacher and name its workdir"),
        (change_players, r"trains a network 'critic' too, and there is no section players\.critic"),
        (change_turns, r"^players\.critic\.every is 0; it must be positive"),
        (change_network, r"^players\.critic\.model\.depth is 0"),
    ],
)
def test_what_is_missing_is_refused(tmp_path, monkeypatch, change, sentence):
    monkeypatch.setitem(losses.LOSSES, "duel", duel)
    np.savez(tmp_path / "second.npz", x=np.zeros((4, 8, 8, 1), np.uint8))
    changed = config(tmp_path)
    change(changed)
    with pytest.raises(ValueError, match=sentence):
        build(changed)


@pytest.mark.parametrize("kind", ["none", "size", "classifier"])
def test_a_teacher_that_is_none_is_refused_before_anything_is_written(ours, tmp_path, kind):
    if kind == "none":
        ours.loss.duel.teacher, sentence = str(tmp_path / "nobody"), "without a config.json"
    if kind == "size":
        ours.sde.beta_max, sentence = 15.0, "which has sde = "
    if kind == "classifier":
        file = tmp_path / "teacher" / "config.json"
        file.write_text(base("vp", "mlp_classifier", "digits").to_json())
        sentence = "no network that predicts data"
    with pytest.raises(ValueError, match=rf"loss\.duel\.teacher is .*{sentence}"):
        run_training(build(ours), tmp_path / "run")
    assert not (tmp_path / "run" / "config.json").exists()
