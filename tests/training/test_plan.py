"""The work and the memory of a step, printed before training, and the trace of some steps."""

import json

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tiny import tiny

from builders.experiment import build
from parallel.mesh import make_mesh, put_batch
from training.metrics import read_metrics
from training.plan import compile_step
from training.run import run_training
from training.sharding import jit_step
from training.state import create_state
from training.step import make_train_step

B, D, K = 256, 384, 512


def test_work_and_memory_of_a_product():
    """One product forward and one for the gradient of the weights: 2 B D K operations each."""

    def loss(params, state, key, batch):
        value = jnp.mean((batch["x0"] @ params) ** 2)
        return value, {"loss": value, "t": batch["x0"][:, 0]}

    mesh, tx = make_mesh(), optax.adam(1e-3)
    state = create_state(jnp.zeros((D, K)), tx, 0)
    batch = put_batch({"x0": np.ones((B, D), np.float32)}, mesh)
    step, plan = compile_step(jit_step(make_train_step(loss, tx, 0.9), mesh), state, batch)
    assert plan.gflop == pytest.approx(4e-9 * B * D * K, rel=0.05)
    # The parameters, their average, the two moments of Adam, and the batch.
    assert plan.state_mib == pytest.approx((4 * D * K + B * D) * 4 / 2**20, rel=1e-3)
    assert f"{plan.gflop:.1f} GFLOP" in str(plan) and plan.seconds > 0
    state, metrics = step(state, batch)
    assert metrics["loss"] == 0.0 and state.step == 1


def test_a_trace_and_the_share_of_the_data(tmp_path, capsys):
    config = tiny(training__n_iters=12, training__snapshot_freq=12, training__log_freq=6)
    run_training(build(config), tmp_path, profile_steps=2)
    said = capsys.readouterr().out
    assert "mlp: " in said and "A step takes 0.0 GFLOP on each device" in said
    (trace,) = (tmp_path / "profile").rglob("*.xplane.pb")
    # The trace names the steps.
    content = trace.read_bytes()
    assert b"train" in content and b"step_num" in content
    assert f"The trace is in {tmp_path / 'profile'}" in said
    rows = read_metrics(tmp_path)
    assert len(rows) == 2 and all(0 <= row["data_share"] < 1 for row in rows)
    assert json.loads((tmp_path / "config.json").read_text())["mesh"] == {"fsdp": 1}


def test_without_steps_there_is_no_trace(tmp_path):
    config = tiny(training__n_iters=12, training__snapshot_freq=12, training__log_freq=6)
    run_training(build(config), tmp_path)
    assert not (tmp_path / "profile").exists()
