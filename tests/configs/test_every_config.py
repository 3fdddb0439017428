"""Every config file trains, is evaluated and samples, with small data and small numbers.

The tests run the program itself with a network of four weights instead of the config's network.
The law, the loss, the conditioning, the meaning of the output, the sampler, the likelihood and the
metrics are the config's. Each config's own network is traced at a small size through the same loss
and the same prediction; `test_original_configs.py` traces the networks at full size.

Configs that are equal after the reduction are one case, so that each program is compiled once. A
case samples or computes bits/dim only if no earlier case has the same program for it.
"""

import json
import runpy

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from program import ROOT

import models
from builders import experiment as builder
from builders.constructors import trained
from builders.experiment import build
from builders.sections import pruned
from configs.base import base
from evaluation.report.pictures import grid, save_png
from evaluation.tasks import sampling
from evaluation.tasks.evaluate import evaluate
from evaluation.tasks.sampling import run_sampling
from training.metrics import read_metrics
from training.restore import restore_ema
from training.run import run_training

FILES = sorted(
    path.relative_to(ROOT / "configs")
    for path in (ROOT / "configs").rglob("*.py")
    if "def get_config" in path.read_text()
)
N_TRAIN, N_TEST, SIDE, CLASSES = 40, 20, 8, 3
LEVELS = 4  # the number of levels of a discrete model
# The reduced values in all configs.
SMALL = {
    "seed": 1,
    "training.batch_size": 8,
    "training.n_iters": 4,
    "training.eval_freq": 2,
    "training.snapshot_freq": 2,
    "training.log_freq": 2,
    "training.progress": False,
    # The optimizer has tests of its own, and a sum instead of a mean changes only a factor.
    "optim.lr": 1e-3,
    "optim.beta2": 0.9,
    "optim.warmup": 2,
    "optim.grad_clip": 1.0,
    "optim.weight_decay": 0.0,
    "optim.schedule": "constant",
    "training.ema_rate": 0.5,
    "loss.denoising.reduce_mean": True,
    "loss.discrete.reduce_mean": True,
    "sampling.steps": LEVELS,
    "sampling.batch_size": 20,
    "sampling.langevin.snr": 0.1,
    "sampling.ald.snr": 0.1,
    # Fixed steps, because an adaptive solve of each law would take as long to compile as the rest.
    "likelihood.solver": "adams",
    "likelihood.adams.steps": 4,
    "eval.batch_size": 10,
    "eval.loss_examples": 15,
    "eval.num_samples": 20,
    "eval.bpd_repeats": 1,
    "eval.mixture": False,
}
# Reduced values of keys that a config sets to something other than zero.
SWITCHES = {
    "prediction.sigma_data": 0.5,
    "sde.sigma_max": 5.0,
    "sde.beta_max": 2.0,  # smaller, because with few levels each step is large
    "sampling.langevin.n_steps": 1,
    "sampling.ald.n_steps": 1,
    "model.dropout": 0.1,
    "model.num_classes": CLASSES,
    "model.num_scales": LEVELS,
    "model.levels": LEVELS,
    "model.fourier_scale": 1.0,
    "model.embedding_scale": 1.0,
    "model.width": 8,
    "model.depth": 1,
    "model.time_dim": 8,
    "model.nf": 8,
    "model.num_res_blocks": 1,
}
OF_DATA = ("centered", "random_flip", "uniform_dequantization")


def reduced(path, folder):
    """Return the config with small parts, and with pixels for Inception, which needs a file."""
    config = runpy.run_path(str(ROOT / "configs" / path))["get_config"]()
    there = lambda key: config[key.split(".")[0]].get(key.split(".")[1])
    switches = {key: value for key, value in SWITCHES.items() if there(key)}
    config.update_from_flattened_dict({**SMALL, **switches})
    if "ch_mult" in config.model:
        config.model.ch_mult = (1,) * min(2, len(config.model.ch_mult))
        config.model.attn_resolutions = (SIDE // 2,) if config.model.attn_resolutions else ()
    grey = config.data.dataset in ("digits", "idx")
    seen = {key: config.data[key] for key in OF_DATA}
    config.data = base("vp", "mlp", "npz").data
    config.data.update(seen, path=str(folder / ("grey.npz" if grey else "colour.npz")))
    if "inception" in config.eval.features:
        config.eval.features = ("pixels",)
    return config


class FourWeights(nn.Module):
    """`w x + b + u tanh(cond) + v label`. For `classes` the logits are its mean times 0, 1, 2."""

    classes: int = 0

    @nn.compact
    def __call__(self, x, cond=None, train=False, label=None):
        w = self.param("w", nn.initializers.zeros, (4,))
        cond = jnp.zeros(len(x)) if cond is None else cond
        told = w[2] * jnp.tanh(cond) + (0.0 if label is None else w[3] * label)
        y = w[0] * x + w[1] + told.reshape(-1, *(1,) * (x.ndim - 1))
        if not self.classes:
            return y
        return jnp.mean(y.reshape(len(y), -1), -1, keepdims=True) * jnp.arange(self.classes)


def stand_in(config, shape):
    if "levels" in config.model:
        return FourWeights(config.model.levels)
    classifies = config.loss.name == "classification"
    return FourWeights(config.model.num_classes if classifies else 0)


def grouped(key):
    """Group the files by `key` of their reduced configs, under the name of a group's first file."""
    found = {}
    for path, config in CONFIGS.items():
        found.setdefault(told(key(config)), []).append(path)
    return {str(paths[0]): paths for paths in found.values()}


def told(value):
    return json.dumps(value, sort_keys=True)


def means(config):
    """The law, the conditioning of the network and the meaning of its output."""
    classes = config.model.get("num_classes", 0) if config.model.name != "ncsn" else 0
    data = {key: config.data[key] for key in ("centered", "uniform_dequantization")}
    parts = [config.sde.to_dict(), config.prediction.to_dict(), config.training.continuous, data]
    return [*parts, classes, trained(config.loss.name) is models.MODELS]


# The config keys on which each program depends.
trains = lambda config: [means(config), pruned(config).loss.to_dict(), config.data.random_flip]
samples = lambda config: [
    *(means(config), pruned(config).sampling.to_dict()),
    *(config.eval[key] for key in ("features", "classifier", "metrics", "reference")),
]
weighs = lambda config: [means(config), pruned(config).likelihood.to_dict()]
program = lambda config: [trains(config), samples(config), weighs(config), config.eval.enable_bpd]


def network(config):
    wiring = [config.prediction.conditioning, config.training.continuous, config.loss.name]
    return [config.model.to_dict(), *wiring]


CONFIGS = {path: reduced(path, ROOT) for path in FILES}
PROGRAMS, NETWORKS = grouped(program), grouped(network)
# The first case among those with the same program for samples, or for bits/dim.
FIRST = {
    key: {
        told(key(CONFIGS[paths[0]])): name
        for name, paths in reversed(PROGRAMS.items())
        if key is samples or CONFIGS[paths[0]].eval.enable_bpd
    }
    for key in (samples, weighs)
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("every"), np.random.default_rng(0)
    for name, channels in (("grey", 1), ("colour", 3)):
        shape = (N_TRAIN + N_TEST, SIDE, SIDE, channels)
        x, y = rng.integers(0, 256, shape).astype(np.uint8), np.arange(shape[0]) % CLASSES
        arrays = {"x": x[:N_TRAIN], "y": y[:N_TRAIN], "x_test": x[N_TRAIN:], "y_test": y[N_TRAIN:]}
        np.savez(folder / f"{name}.npz", **arrays)
    return folder


def test_no_file_is_left_out():
    for groups in (PROGRAMS, NETWORKS):
        assert sorted(path for paths in groups.values() for path in paths) == FILES
    assert len(FILES) >= 55 > len(PROGRAMS)


@pytest.fixture
def quick(monkeypatch):
    """Use a small network, fast compilation without most optimizations, and a plain figure."""
    monkeypatch.setattr(builder, "build_model", stand_in)
    frames = []

    def figure(found, times, path):
        frames.append(found)
        save_png(path, grid(found[-1]))

    monkeypatch.setattr(sampling, "trajectory_figure", figure)
    jax.config.update("jax_disable_most_optimizations", True)
    yield frames
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.mark.parametrize("name", PROGRAMS)
def test_trains_is_evaluated_and_samples(name, folder, tmp_path, quick):
    config = reduced(PROGRAMS[name][0], folder)
    scores = trained(config.loss.name) is models.MODELS
    new = {key: FIRST[key].get(told(key(CONFIGS[PROGRAMS[name][0]]))) == name for key in FIRST}
    config.training.snapshot_sampling = config.eval.enable_sampling = scores and new[samples]
    config.eval.enable_bpd &= scores and new[weighs]
    experiment = build(config)
    state = run_training(experiment, tmp_path)
    rows = read_metrics(tmp_path)
    losses = [row["eval_loss"] for row in rows if "eval_loss" in row]
    assert int(state.step) == 4 and len(losses) == 2 and np.isfinite(losses).all()
    assert np.isfinite([row["training_loss"] for row in rows if "training_loss" in row]).all()
    step, params = restore_ema(experiment, tmp_path)
    report = evaluate(experiment, params, tmp_path, step, rows, 1.0)
    assert (
        np.isfinite(report["eval_loss"])
        and bool({"classifier", "noise_level"} & set(report)) is not scores
    )
    if config.eval.enable_bpd:
        assert report["bits_per_dim"]["n"] == N_TEST
    if not config.eval.enable_sampling:
        return
    assert (tmp_path / "samples" / "step_4" / "sample.png").is_file()
    assert all(np.isfinite(frames).all() for frames in quick)
    assert len(quick) == (config.sampling.method == "pc")
    ending = f"samples_{config.eval.reference}"
    for space in report["spaces"]:
        assert np.isfinite([space[metric][ending] for metric in config.eval.metrics]).all()
    said = run_sampling(experiment, params, tmp_path, step, range(20))
    assert said["failed"] == 0 and said["nfe"] == report["nfe"]["sampling"]
    # Each sample has its seed, so the evaluation and the mode `sample` draw the same samples.
    drawn = np.load(tmp_path / "samples" / "step_4" / "samples_0-19.npz")["arr_0"]
    np.testing.assert_array_equal(drawn, np.load(tmp_path / "samples.npz")["arr_0"])


@pytest.mark.parametrize("name", NETWORKS)
def test_its_network_takes_what_it_is_told(name, folder):
    """The network accepts its arguments in training and in sampling and likelihood."""
    config = reduced(NETWORKS[name][0], folder)
    experiment = build(config)
    raw = experiment.train.fetch(np.arange(2))
    batch = {"x0": raw, "cond": experiment.train.labels[:2]}
    key = jax.random.key(0)
    params = jax.eval_shape(experiment.init_params, key)
    value, _ = jax.eval_shape(lambda p: experiment.loss(p, None, key, batch), params)
    assert value.shape == ()
    x, t = jnp.zeros(raw.shape), jnp.full(2, 0.5)
    if experiment.levels:
        found = jax.eval_shape(lambda p: experiment.model.apply({"params": p}, x), params)
        assert found.shape == (2, LEVELS)
        return
    asked = experiment.logits or (lambda p: lambda x, t: experiment.predict(p)(x, t).score)
    found = jax.eval_shape(lambda p: asked(p)(x, t), params)
    assert found.shape == ((2, CLASSES) if experiment.logits else raw.shape)
