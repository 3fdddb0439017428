"""Training steps against NumPy in float64 and against steps of the original implementation."""

import json
from math import comb
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict
from tiny import tiny

from builders.experiment import build
from builders.training import build_optimizer
from data import Loader
from losses.denoising import Draws, denoising_terms, reduce_terms
from models.embeddings import GaussianFourierProjection
from parallel.mesh import make_mesh, put_batch
from sde_lib import SDES
from training.restore import initial_or_latest
from training.sharding import jit_step
from training.state import create_state
from training.step import ema_update, make_train_step, scan_steps

GOLDEN = np.load(Path(__file__).parent / "goldens" / "train_steps.npz")
CASES = json.loads(str(GOLDEN["config"]))["cases"]

OPTIM = {
    "optimizer": "adam",
    "lr": 0.05,
    "beta1": 0.8,
    "beta2": 0.95,
    "eps": 1e-3,
    "weight_decay": 0.3,
    "warmup": 4,
    "grad_clip": 2.0,
    "schedule": "constant",
}
N_ITERS = 12
DECAY = 0.4  # low enough that the warm start, (1 + n) / (10 + n), reaches it at n = 5


def optim(**changes):
    return ConfigDict({**OPTIM, **changes})


def linear_loss(params, state, key, batch):
    error = batch["x"] @ params["w"] + params["b"] - batch["y"]
    value = jnp.mean(error**2)
    return value, {"loss": value, "t": error}


def batches(seed=0, n=N_ITERS, size=8, dims=3):
    """Yield batches with growing targets, so that some gradients are clipped and others are not."""
    rng = np.random.default_rng(seed)
    for i in range(n):
        x = rng.standard_normal((size, dims))
        yield {"x": x, "y": 0.3 * (1 + i) * (x @ np.array([1.0, -2.0, 0.5]) + 0.3)}


def reference(section, decay, data, clipped):
    """Adam after Kingma and Ba in NumPy. Yield parameters, average, both moments, gradient norm.

    `clipped` is a list; every step appends whether its gradient was clipped.
    """
    p, ema = np.zeros(4), np.zeros(4)
    m, v = np.zeros(4), np.zeros(4)
    for n, batch in enumerate(data):
        x = np.concatenate([batch["x"], np.ones((len(batch["x"]), 1))], axis=1)
        g = 2.0 * x.T @ (x @ p - batch["y"]) / len(x)
        norm = np.sqrt(np.sum(g**2))
        clipped.append(norm > section.grad_clip > 0)
        if clipped[-1]:
            g = g * section.grad_clip / norm
        m = section.beta1 * m + (1 - section.beta1) * g
        v = section.beta2 * v + (1 - section.beta2) * g**2
        step = m / (1 - section.beta1 ** (n + 1))
        step = step / (np.sqrt(v / (1 - section.beta2 ** (n + 1))) + section.eps)
        rate = section.lr * (n / section.warmup if n < section.warmup else 1.0)
        if section.schedule == "cosine" and n >= section.warmup:
            through = (n - section.warmup) / (N_ITERS - section.warmup)
            rate = section.lr * 0.5 * (1 + np.cos(np.pi * through))
        p = p - rate * (step + section.weight_decay * p)
        keep = min(decay, (1 + n) / (10 + n))
        ema = keep * ema + (1 - keep) * p
        yield p, ema, m, v, norm


def adam_moments(opt_state):
    """Return `(mu, nu)` from any place in the chain of transformations."""
    is_adam = lambda s: isinstance(s, optax.ScaleByAdamState)
    (state,) = [s for s in jax.tree.leaves(opt_state, is_leaf=is_adam) if is_adam(s)]
    return state.mu, state.nu


def flat(params):
    return np.append(params["w"], params["b"])


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"schedule": "cosine"},
        {"warmup": 0, "grad_clip": 0.0},
        {"weight_decay": 0.0, "warmup": 1},
    ],
    ids=["all", "cosine", "no_warmup_no_clip", "no_decay"],
)
def test_many_steps_equal_numpy(changes):
    section, clipped = optim(**changes), []
    tx = build_optimizer(section, N_ITERS)
    step = jax.jit(make_train_step(linear_loss, tx, DECAY))
    state = create_state({"w": jnp.zeros(3), "b": jnp.zeros(())}, tx, seed=0)
    for n, (batch, truth) in enumerate(
        zip(batches(), reference(section, DECAY, batches(), clipped))
    ):
        state, metrics = step(state, batch)
        mu, nu = adam_moments(state.opt_state)
        found = (flat(state.params), flat(state.ema_params), flat(mu), flat(nu))
        for name, a, b in zip(("params", "ema", "mu", "nu"), found, truth):
            # The learning rate and the averaging rate are computed in float32.
            np.testing.assert_allclose(a, b, rtol=2e-6, atol=1e-9, err_msg=f"{name}, step {n}")
        np.testing.assert_allclose(metrics["grad_norm"], truth[-1], rtol=2e-6)
        assert state.step == n + 1
    if section.grad_clip:
        assert any(clipped) and not all(clipped)


@pytest.mark.parametrize("case", sorted(CASES))
def test_steps_of_the_original(case):
    """The loss, the parameters and the moments agree. The original's moving average has no warm
    start, so it is not compared here."""
    config = CASES[case]
    array = lambda name: GOLDEN[f"{case}/{name}"]
    name = config["sde"].removesuffix("SDE").lower()
    numbers = {k: v for k, v in config["sde_args"].items() if k != "N"}
    path = SDES[name](**numbers)

    def loss(params, state, key, batch):
        def network(x, cond):
            s = cond[:, None, None, None]
            raw = params["a"] * x + params["b"] * jnp.log1p(s)
            return raw / (0.25 + s**2) if name == "ve" else raw

        terms = denoising_terms(
            path,
            network,
            *(("score", "sigma") if name == "ve" else ("eps", "label")),
            "likelihood" if config["likelihood_weighting"] else "variance",
            0.5,
            batch["x0"],
            Draws(batch["t"], None, batch["z"]),
        )
        value = jnp.mean(reduce_terms(terms, config["reduce_mean"]))
        return value, {"loss": value}

    section = optim(**{**config["optim"], "optimizer": "adam", "beta2": 0.999})
    # A negative number switches clipping off in the original.
    section.grad_clip = max(section.grad_clip, 0.0)
    tx = build_optimizer(section, 1000)
    step = jax.jit(make_train_step(loss, tx, config["ema_rate"]))
    init = {"a": jnp.asarray(array("init/a")), "b": jnp.asarray(array("init/b"))}
    state = create_state(init, tx, seed=0)
    # In this case the original divides by `1 - exp(-B)`, which float32 rounds by 1.2 % at small t.
    rtol = 1e-4 if case == "subvp_lw_noclip_nowarmup" else 1e-5
    for n in range(config["steps"]):
        batch = {"x0": array("data")[n], "t": array("t")[n], "z": array("z")[n]}
        state, metrics = step(state, batch)
        np.testing.assert_allclose(metrics["loss"], array("loss")[n], rtol=rtol)
        mu, nu = adam_moments(state.opt_state)
        for kind, found in (("", state.params), ("mu_", mu), ("nu_", nu)):
            for key in ("a", "b"):
                expected = array(f"state/{kind}{key}")[n]
                # Relative to the largest entry: the three sums behind `a` partly cancel.
                atol = rtol * np.abs(expected).max()
                np.testing.assert_allclose(
                    found[key], expected, rtol=0, atol=atol, err_msg=f"{kind}{key}, step {n}"
                )


@pytest.mark.parametrize("decay", [0.9999, 0.5])
def test_average_forgets_its_start(decay):
    """The average starts at 1 and the parameters stay at 0: the average is the start's weight."""
    update, ema = jax.jit(ema_update), {"w": np.ones(2, np.float32)}
    for n in range(100):
        ema = update(ema, {"w": np.zeros(2, np.float32)}, n, decay)
    # With decay 0.9999 the weight is prod (1 + n) / (10 + n) = 100! 9! / 109!. With decay 0.5 the
    # first 8 factors are below 0.5, 8! 9! / 17! together, and the other 92 factors are 0.5.
    weight = {0.9999: 1.0 / comb(109, 9), 0.5: 0.5**92 / comb(17, 8)}[decay]
    np.testing.assert_allclose(ema["w"], weight, rtol=1e-4)


def test_average_of_constant_parameters_is_exact():
    params = {"w": jnp.asarray([0.1, -3.7e5, 1e-12])}
    ema = ema_update(params, params, jnp.asarray(7), 0.999)
    np.testing.assert_array_equal(ema["w"], params["w"])


def test_first_step():
    """With warm-up the first step moves nothing; without, Adam moves each weight by the rate."""
    init = {"w": np.float32([0.5, -1.0, 2.0]), "b": np.float32(0.25)}
    batch = next(batches())
    for warmup, move in ((4, 0.0), (0, 0.05)):
        section = optim(warmup=warmup, weight_decay=0.0, eps=1e-12)
        tx = build_optimizer(section, N_ITERS)
        first = lambda init, batch, tx=tx: make_train_step(linear_loss, tx, 0.9)(
            create_state(init, tx, 0), batch
        )
        state, _ = jax.device_get(jax.jit(first)(init, batch))
        np.testing.assert_allclose(np.abs(flat(state.params) - flat(init)), move, rtol=1e-5)
        # The average keeps 1 / 10 of its start in the first update, for any decay.
        moved = flat(state.ema_params) - flat(init)
        np.testing.assert_allclose(moved, 0.9 * (flat(state.params) - flat(init)), rtol=1e-5)
        assert state.step == 1


def test_key_is_folded_with_the_step():
    """Step n has the same randomness in every run of the seed, and every step has its own."""
    seen = {}

    def loss(params, state, key, batch):
        return params["w"] * 0.0, {"loss": jax.random.uniform(key)}

    tx = optax.sgd(0.1)
    step = jax.jit(make_train_step(loss, tx, 0.9))
    start = jax.jit(lambda seed: create_state({"w": jnp.zeros(())}, tx, seed))
    state = start(3)
    for n in range(4):
        state, metrics = step(state, {})
        seen[n] = float(metrics["loss"])
    assert len(set(seen.values())) == 4
    again = start(3).replace(step=np.int32(2))
    assert float(step(again, {})[1]["loss"]) == seen[2]
    assert float(step(start(4), {})[1]["loss"]) != seen[0]


@pytest.fixture(scope="module")
def run():
    """A tiny run: the step, the step compiled as in the loop, the loader, and the first state."""
    experiment, mesh = build(tiny()), make_mesh()
    step = make_train_step(experiment.loss, experiment.tx, 0.999)
    loader = Loader(experiment.train, 16, seed=0)
    assert experiment.config.model.dropout > 0 and experiment.scaler.dequantize
    return SimpleNamespace(
        mesh=mesh,
        step=step,
        jitted=jit_step(step, mesh),
        loader=loader,
        start=lambda: initial_or_latest(experiment, SimpleNamespace(latest=lambda: None), mesh),
    )


def test_donated_and_compiled_once(run):
    state = run.start()
    for n in range(3):
        old = state
        state, _ = run.jitted(state, put_batch(run.loader.batch(n), run.mesh))
        kept = [path for path, leaf in jax.tree.leaves_with_path(old) if not leaf.is_deleted()]
        assert not kept, f"step {n} did not take over the buffers of {kept}"
        assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(state))
    assert run.jitted._cache_size() == 1


def test_scan_equals_single_steps(run):
    """Four steps in one call, with dropout and dequantisation, equal four single calls."""
    four = jit_step(scan_steps(run.step, 4), run.mesh, 4)
    a, losses = run.start(), []
    for n in range(4):
        a, metrics = run.jitted(a, put_batch(run.loader.batch(n), run.mesh))
        losses.append(float(metrics["loss"]))
    b, metrics = four(run.start(), put_batch(run.loader.stacked(0, 4), run.mesh, 1))
    np.testing.assert_allclose(metrics["loss"], losses, rtol=1e-6)
    assert metrics["t"].shape == (4, 16)
    assert int(b.step) == 4
    for (path, x), y in zip(jax.tree.leaves_with_path(a.params), jax.tree.leaves(b.params)):
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6, err_msg=jax.tree_util.keystr(path))


def test_passes_over_parts_are_one_update(x64):
    """The mean gradient over four parts of two examples is the gradient of all eight."""
    tx = build_optimizer(optim(), N_ITERS)
    state = create_state({"w": jnp.zeros(3), "b": jnp.zeros(())}, tx, 0)
    steps = [jax.jit(make_train_step(linear_loss, tx, DECAY, passes)) for passes in (1, 4)]
    states = [state, state]
    for batch in batches():
        (one, told), (four, told_four) = (step(s, batch) for step, s in zip(steps, states))
        states = [one, four]
        assert float(told_four["loss"]) == pytest.approx(float(told["loss"]), rel=1e-12)
        assert float(told_four["grad_norm"]) == pytest.approx(float(told["grad_norm"]), rel=1e-12)
        np.testing.assert_allclose(np.sort(told_four["t"]), np.sort(told["t"]), rtol=1e-12)
    moved = [(s.params, s.ema_params, s.opt_state) for s in states]
    for a, b in zip(*map(jax.tree.leaves, moved)):
        np.testing.assert_allclose(b, a, rtol=1e-12)
    assert abs(states[0].params["w"]).max() > 0.1


def test_a_part_has_its_own_key_and_examples():
    """Part i of 3 gets the key fold_in(key, i) and every third example, starting at example i."""

    def loss(params, state, key, batch):
        value = params * jnp.mean(batch["x"])
        return value, {"loss": value, "t": batch["x"] + jax.random.uniform(key, (2,))}

    state = create_state(jnp.ones(()), optax.sgd(1.0), 3)
    step = make_train_step(loss, optax.sgd(1.0), 0.5, accumulate=3)
    told = jax.jit(step)(state, {"x": np.arange(6, dtype=np.float32)})[1]["t"]

    @jax.jit
    def draws(key):
        keys = [jax.random.fold_in(jax.random.fold_in(key, 0), i) for i in range(3)]
        return jnp.stack([jax.random.uniform(key, (2,)) for key in keys])

    expected = np.float32([[0, 3], [1, 4], [2, 5]]) + np.asarray(draws(state.key))
    expected = expected.reshape(-1)
    np.testing.assert_array_equal(told, expected)


def test_frozen_frequencies_do_not_decay():
    """In a thousand steps without a gradient weights shrink by `(1 - lr decay)^1000`, and Fourier
    frequencies stay. The optimizer state has the tree of plain adamw, as checkpoints hold it."""
    section = optim(weight_decay=0.1, lr=0.01, warmup=0, grad_clip=0.0)
    tx, ours = build_optimizer(section, N_ITERS), GaussianFourierProjection(4)
    params = {"fourier": ours.init(jax.random.key(0), jnp.ones(1))["params"], "W": jnp.ones((2, 2))}

    def step(i, at):
        params, state = at
        updates, state = tx.update(jax.tree.map(jnp.zeros_like, params), state, params)
        return optax.apply_updates(params, updates), state

    after, _ = jax.jit(lambda at: jax.lax.fori_loop(0, 1000, step, at))((params, tx.init(params)))
    np.testing.assert_array_equal(after["fourier"]["W"], params["fourier"]["W"])
    np.testing.assert_allclose(after["W"], (1 - 0.001) ** 1000, rtol=1e-4)
    schedule = lambda step: 0.01
    plain = optax.chain(optax.identity(), optax.adamw(schedule, weight_decay=0.1))
    same = jax.tree.structure(plain.init(params)) == jax.tree.structure(tx.init(params))
    assert same
