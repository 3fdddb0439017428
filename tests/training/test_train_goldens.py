"""The parts of the original's training steps that `test_train_step.py` does not cover.

They are the discrete losses, the moving average (the original's rate is constant), and the
evaluation loss, which the original computes with the averaged parameters.
"""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict

from builders.training import build_optimizer
from losses.denoising import Draws, denoising_terms, reduce_terms
from losses.discrete import level_terms
from sde_lib import SDES
from sde_lib.tables import make_tables
from training.state import create_state
from training.step import ema_update, make_train_step

FOLDER = Path(__file__).parent / "goldens"
FILES = [np.load(FOLDER / name) for name in ("train_steps_rest.npz", "train_steps.npz")]
GOLDEN = {key: file[key] for file in FILES[::-1] for key in file.files}
CASES = json.loads(str(FILES[0]["config"]))["cases"]
DISCRETE = [case for case in CASES if not CASES[case]["continuous"]]


update = jax.jit(ema_update)


def test_all_cases_are_here():
    assert len(CASES) == 5 and len(DISCRETE) == 2


def loss_of(case):
    """`(params, x0, levels or times, z) -> loss` of the linear model of the references."""
    config = CASES[case]
    name = config["sde"].removesuffix("SDE").lower()
    numbers = dict(config["sde_args"])
    N = numbers.pop("N")
    path, discrete = SDES[name](**numbers), not config["continuous"]
    kind = "score" if name == "ve" else "eps"

    def value(params, x0, t, z):
        def network(x, label):
            s = label[:, None, None, None]
            if name != "ve":
                return params["a"] * x + params["b"] * jnp.log1p(s)
            s = 50.0 * (0.01 / 50.0) ** (s / (N - 1)) if discrete else s
            return (params["a"] * x + params["b"] * jnp.log1p(s)) / (0.25 + s**2)

        if discrete:
            # For SMLD the file holds labels, which count the levels from the largest noise down.
            draws = Draws(N - 1 - t if name == "ve" else t, None, z)
            conditioning = "level" if name == "ve" else "step"
            terms = level_terms(make_tables(path, N), network, kind, conditioning, 0.5, x0, draws)
        else:
            conditioning = "sigma" if name == "ve" else "label"
            weighting = "likelihood" if config["likelihood_weighting"] else "variance"
            draws = Draws(t, None, z)
            terms = denoising_terms(path, network, kind, conditioning, weighting, 0.5, x0, draws)
        return jnp.mean(reduce_terms(terms, config["reduce_mean"]))

    return value


def close(found, expected, what):
    """Compare to 1e-5 of the largest entry: the sums in the gradient of `a` partly cancel."""
    scale = np.max(np.abs(expected))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * scale, err_msg=what)


@pytest.mark.parametrize("case", DISCRETE)
def test_discrete_steps_of_the_original(case):
    """The loss, the parameters and Adam's moments agree at every step."""
    config, value = CASES[case], loss_of(case)
    array = lambda key: GOLDEN[f"{case}/{key}"]

    def loss(params, state, key, batch):
        out = value(params, batch["x0"], batch["labels"], batch["z"])
        return out, {"loss": out}

    section = ConfigDict({**config["optim"], "optimizer": "adam", "beta2": 0.999})
    section.schedule = "constant"
    tx = build_optimizer(section, 1000)
    step = jax.jit(make_train_step(loss, tx, config["ema_rate"]))
    init = {key: jnp.asarray(array(f"init/{key}")) for key in ("a", "b")}
    state = create_state(init, tx, seed=0)
    for n in range(config["steps"]):
        batch = {"x0": array("data")[n], "labels": array("labels")[n], "z": array("z")[n]}
        state, metrics = step(state, batch)
        close(metrics["loss"], array("loss")[n], f"loss, step {n}")
        mu, nu = (optax.tree_utils.tree_get(state.opt_state, name) for name in ("mu", "nu"))
        for kind, found in (("", state.params), ("mu_", mu), ("nu_", nu)):
            for key in ("a", "b"):
                close(found[key], array(f"state/{kind}{key}")[n], f"{kind}{key}, step {n}")
    assert state.step == array("step") and metrics["grad_norm"] > 0


@pytest.mark.parametrize("case", CASES)
def test_moving_average_and_evaluation_loss(case):
    """The moving average starts at the initial parameters. Its rate is constant, as ours is after
    many steps. The evaluation loss is at the last average, with the file's data, times and noise.
    """
    array = lambda key: GOLDEN[f"{case}/{key}"]
    get = lambda kind, n: {key: array(f"state/{kind}{key}")[n] for key in ("a", "b")}
    ema = {key: array(f"init/{key}") for key in ("a", "b")}
    long_after = 10**6
    for n in range(CASES[case]["steps"]):
        ema = update(ema, get("", n), long_after, CASES[case]["ema_rate"])
        for key in ("a", "b"):
            close(ema[key], get("ema_", n)[key], f"{key}, step {n}")
    t = array("eval/t" if CASES[case]["continuous"] else "eval/labels")
    found = jax.jit(loss_of(case))(ema, array("data")[0], t, array("eval/z"))
    close(found, array("eval/loss"), "evaluation loss")
