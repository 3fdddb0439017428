"""`build` passes each option of a config to the formula that the option names."""

import functools
import inspect
import runpy

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closed_form import Gaussian
from ml_collections import ConfigDict
from program import ROOT
from tiny import tiny

import data
import likelihood
import losses
import samplers
import sde_lib
from builders.experiment import build
from builders.likelihood import build_flow_solver, build_likelihood
from builders.model import build_model
from builders.path import build_path
from builders.sections import options
from builders.sources import build_data, data_moments
from builders.training import build_loss, build_preprocessing
from configs.base import base
from data import Loader, Scaler, from_array
from losses import denoising_loss
from losses.mean_reverting import mean_reverting_loss
from sde_lib import MeanReverting, expand

PATH = sde_lib.VP()
LAWS = {name: options(law) for name, law in sde_lib.SDES.items()}


@pytest.mark.parametrize("flip", [False, True])
def test_moments_of_the_training_data(flip):
    raw = np.random.default_rng(0).integers(0, 256, (50, 2, 3, 1), np.uint8)
    source = data.from_array("pixels", "train", raw, None, 256)
    found = data_moments(source, Scaler(256, True, False), flip, None)
    scaled = raw / 255.0 * 2.0 - 1.0
    seen = np.concatenate([scaled, scaled[:, :, ::-1]] if flip else [scaled]).reshape(-1, 6)
    np.testing.assert_allclose(found.mean, seen.mean(0), atol=1e-6)
    cov = (found.U * found.L) @ found.U.T
    np.testing.assert_allclose(cov, np.cov(seen.T, bias=True), atol=1e-6)


def recorded(monkeypatch, module, name):
    """Replace a function by one that only records its arguments by name; return the records."""
    signature, calls = inspect.signature(getattr(module, name)), []

    @functools.wraps(denoising_loss)
    def note(*args, **kwargs):
        calls.append(signature.bind(*args, **kwargs).arguments)

    monkeypatch.setattr(module, name, note)
    return calls


def test_options_of_the_likelihood(monkeypatch):
    config = base("vp", "mlp", "npz").likelihood
    config.update(divergence="gaussian", num_probes=3, solver="heun", rtol=0.02, atol=0.03)
    config.update(max_steps=77, eps=0.04, variable="lam")
    probes = []
    noted = lambda num_probes=1: probes.append(num_probes)
    monkeypatch.setitem(likelihood.DIVERGENCES, "gaussian", noted)
    calls = recorded(monkeypatch, likelihood, "log_likelihood")
    build_likelihood(config, PATH)("key", "predict", "x")
    solver = samplers.Solver("heun", 0.02, 0.03, 77, "lam")
    given = {"key": "key", "path": PATH, "predict": "predict", "x": "x", "cond": None, "eps": 0.04}
    assert calls == [{**given, "divergence": None, "solver": solver}]
    assert probes == [3]


def test_the_solver_of_the_flow():
    """Every argument has a value of its own, so that a swap of two arguments is seen."""
    config = base("vp", "mlp", "npz").likelihood
    config.update(solver="bosh3", rtol=0.1, atol=0.2, max_steps=7, variable="lam", sigma_data=0.3)
    assert build_flow_solver(config) == samplers.Solver("bosh3", 0.1, 0.2, 7, "lam", 0.3)
    config = base("vp", "mlp", "npz").likelihood
    config.update(solver="adams", steps=9, order=3, variable="lam", sigma_data=0.3)
    assert build_flow_solver(config) == likelihood.Adams(9, 3, "lam", 0.3)


def test_likelihood():
    """Rademacher probes give the exact trace here, because the Jacobian is a multiple of I."""
    data = Gaussian.scalar(0.0, 0.3, dims=3)
    config = base("vp", "mlp", "npz").likelihood
    config.update(divergence="rademacher", eps=0.01)
    run = build_likelihood(config, PATH)
    x = np.float32(0.3 * np.random.default_rng(5).standard_normal((2, 3)))
    found = jax.jit(lambda x: run(jax.random.key(6), data.predict(PATH), x).logp)(x)
    np.testing.assert_allclose(found, data.logp(PATH, x, 0.01), atol=2e-3)


@pytest.mark.parametrize(
    "alias, name",
    [("vpsde", "vp"), ("VPSDE", "vp"), ("VESDE", "ve"), ("subvpsde", "subvp"), ("VP", "vp")],
)
def test_aliases_of_laws(alias, name):
    path = build_path(ConfigDict({**LAWS[name], "name": alias, "t1": 0.9}))
    assert type(path) is sde_lib.SDES[name]
    assert path.t1 == 0.9


@pytest.mark.parametrize("name", LAWS)
def test_numbers_of_laws(name):
    numbers = {key: value * 0.5 for key, value in LAWS[name].items()}
    path = build_path(ConfigDict({"name": name, **numbers}))
    assert {key: getattr(path, key) for key in numbers} == numbers


@pytest.mark.parametrize(
    "numbers, sentence",
    [
        (
            {"name": "vp", "beta_max": 200.0},
            "sde.beta_max is 200.0, .* 5.32e[+]21 times at t1",
        ),
        ({"name": "subvp", "beta_max": 400.0}, "sde.beta_max is 400.0, which makes .* times at t1"),
        (
            {"name": "ve", "sigma_max": 1e20},
            "sde.sigma_max is 1e[+]20, .* 1e[+]20 times at t1",
        ),
        ({"name": "edm", "t1": 1e25}, "sde.t1 is 1e[+]25, which makes"),
    ],
)
def test_laws_beyond_float32(numbers, sentence):
    with pytest.raises(ValueError, match=sentence):
        build_path(ConfigDict({**LAWS[numbers["name"]], **numbers}))


@pytest.fixture(scope="module")
def experiment():
    return build(tiny())


class Zero:
    """A network that returns zero and records `train` and the random keys of each call."""

    def __init__(self):
        self.calls = []

    def apply(self, variables, x, cond, train=False, rngs=None):
        self.calls.append((train, sorted(rngs or {})))
        return jnp.zeros_like(x)


def test_dropout_in_training_alone(experiment, monkeypatch):
    network = Zero()
    monkeypatch.setattr("builders.experiment.build_model", lambda config, shape: network)
    zero = build(tiny())
    batch, x = {"x0": zero.train.fetch(np.arange(4))}, np.zeros((4, 8, 8, 1), np.float32)
    jax.eval_shape(lambda batch: zero.loss({}, None, jax.random.key(0), batch), batch)
    jax.eval_shape(lambda x: zero.predict({})(x, np.float32(0.5)), x)
    assert network.calls == [(True, ["dropout"]), (False, [])]


def test_scalers(experiment):
    """Bits/dim always use dequantised data, also if training does not."""
    assert experiment.scaler == Scaler(17, True, True)
    plain = build(tiny(data__uniform_dequantization=False, data__centered=False))
    assert plain.scaler == Scaler(17, False, False)
    assert plain.bits_scaler == Scaler(17, False, True)
    assert (experiment.train.size, experiment.test.size) == (1500, 297)


def test_preprocessing_of_pairs():
    """Both ends of a pair are flipped or neither. Each has its own scaler and its own noise."""
    raw = (np.arange(64 * 16) % 16).astype(np.uint8).reshape(64, 4, 4, 1)
    options = ConfigDict({"random_flip": True})
    prepare = build_preprocessing(options, Scaler(17, True, False), Scaler(33, False, True))
    found = jax.jit(prepare)(jax.random.key(0), {"x0": raw, "x1": 2 * raw})
    x0, x1 = (np.asarray(found[k]) for k in ("x0", "x1"))
    noise = 33 * x1 - 2 * np.round(8 * (x0 + 1))
    assert noise.min() > 0.0 and noise.max() < 1.0 and abs(noise.mean() - 0.5) < 0.05
    same = prepare(jax.random.key(0), {"x0": raw})["x0"]
    np.testing.assert_array_equal(same, found["x0"])


def test_pairs_of_two_sources_reach_a_loss():
    """The data are a constant and the other end has random levels. A network that knows both can
    compute the noise of the state exactly, so its loss is zero."""
    one = from_array("one", "train", np.full((20, 4, 4, 1), 3, np.uint8), None, 17)
    levels = np.random.default_rng(0).integers(0, 17, (30, 4, 4, 1)).astype(np.uint8)
    loader = Loader(one, 8, 0, second=from_array("other", "train", levels, None, 17))
    law, scaler = MeanReverting(), Scaler(17, True, False)
    prepare = build_preprocessing(ConfigDict({"random_flip": True}), scaler)

    def says_the_noise(params, x, mu, t, dropout_key):
        a, b, c = (expand(v, x) for v in law.ends.coeffs(t))
        return (x - a * params - b * mu) / c

    loss = mean_reverting_loss(law, says_the_noise, "eps", "t")

    @jax.jit
    def run(true, batch):
        ready = prepare(jax.random.key(1), batch)
        return loss(true, {}, jax.random.key(0), ready)[0], ready["x1"]

    right, x1 = run(3.0 / 8.0 - 1.0, loader.batch(2))
    wrong, _ = run(0.0, loader.batch(2))
    assert right < 1e-6 < 0.1 < wrong
    assert np.std(x1) > 0.3


def test_preprocessing():
    raw = np.arange(64 * 16, dtype=np.uint8).reshape(64, 4, 4, 1) % 16
    scaled = raw / 8.0 - 1
    prepare = lambda **kw: build_preprocessing(ConfigDict(kw), Scaler(17, True, False))
    batch = {"x0": raw, "index": np.arange(64)}
    assert prepare(random_flip=False)(jax.random.key(0), batch)["index"] is batch["index"]

    @jax.jit
    def run(batch, vectors):
        key = jax.random.key(0)
        plain, flipped = (prepare(random_flip=flip)(key, batch) for flip in (False, True))
        untouched = prepare(random_flip=True)(key, {"x0": vectors})
        return plain["x0"], flipped["x0"], untouched["x0"]

    plain, flipped, untouched = jax.device_get(run(batch, raw.reshape(64, 16)))
    np.testing.assert_allclose(plain, scaled, atol=1e-6)
    mirrored = [np.allclose(a, b[:, ::-1], atol=1e-6) for a, b in zip(flipped, scaled)]
    same = [np.allclose(a, b, atol=1e-6) for a, b in zip(flipped, scaled)]
    assert np.logical_xor(mirrored, same).all()
    # Of 64 fair coins the count is over 4 standard deviations from 32 in one of 16,000 seeds.
    assert abs(sum(mirrored) - 32) <= 16
    np.testing.assert_allclose(untouched, scaled.reshape(64, 16), atol=1e-6)


def test_options_of_the_loss(experiment, monkeypatch):
    signature, calls = inspect.signature(denoising_loss), []

    @functools.wraps(denoising_loss)
    def note(*args, **kwargs):
        calls.append(signature.bind(*args, **kwargs).arguments)

    monkeypatch.setitem(losses.LOSSES, "denoising", note)
    options = {
        "loss__denoising": {
            "weighting": "likelihood",
            "time_sampling": "importance",
            "stratify": False,
            "reduce_mean": False,
        },
        "prediction": {"kind": "v", "conditioning": "c_noise", "sigma_data": 0.3},
    }
    config = tiny(**{f"{s}__{k}": v for s, own in options.items() for k, v in own.items()})
    build_loss(config, experiment.path, Zero(), experiment.scaler)
    calls[0].pop("network")
    assert calls == [
        {"path": experiment.path, **options["loss__denoising"], **options["prediction"]}
    ]


def test_loss_of_a_network_that_says_zero(experiment):
    """For the kind `eps` the loss is the mean of 256 * 64 squared normals of variance 2, so 1."""
    config = tiny(prediction__kind="eps")
    loss = build_loss(config, experiment.path, Zero(), experiment.scaler)
    batch = {"x0": experiment.train.fetch(np.arange(256))}
    value, metrics = jax.jit(loss)({}, None, jax.random.key(3), batch)
    assert value == metrics["loss"] == pytest.approx(1.0, abs=5 * (2 / (256 * 64)) ** 0.5)
    assert metrics["t"].shape == (256,)


@pytest.mark.parametrize("size, expected", [((), (12, 10)), ((6,), (6, 6)), ((6, 8), (6, 8))])
def test_image_size_of_a_folder(tmp_path, size, expected):
    """One number means a square. A flag can give one number only as a tuple of length one."""
    from PIL import Image

    for split in ("train", "test"):
        (tmp_path / split).mkdir()
        for i in range(3):
            Image.fromarray(np.full((12, 10, 3), 40 * i, np.uint8)).save(
                tmp_path / split / f"{i}.png"
            )
    config = base("vp", "mlp", "image_folder")
    config.data.update(path=str(tmp_path), image_size=size)
    experiment = build(config)
    assert experiment.shape == (*expected, 3)
    assert experiment.train.fetch(np.arange(3)).shape == (3, *expected, 3)


@pytest.mark.parametrize(
    "key, value, rule",
    [
        ("data.crop", (8, 8, 3), "must be one side, or"),
        ("model.fir_kernel", ("1", 3), "must be the taps"),
        ("model.fir_kernel", (), "must be the taps"),
    ],
)
def test_tuples_of_another_length(key, value, rule):
    """A tuple of a wrong length is refused with its key, before anything is built."""
    config = base("ve", "ncsnpp", "tfds")
    config.update_from_flattened_dict({key: value})
    with pytest.raises(ValueError, match=rf"^{key} is .*; it {rule}"):
        build_model(config, (32, 32, 3))
        build_data(config.data)


@pytest.mark.parametrize("dataset, words", [("npz", "holdout, path"), ("tfds", "crop.*name, path")])
def test_data_of_another_config(dataset, words):
    config = tiny()
    config.data.dataset = dataset
    with pytest.raises(ValueError, match=f"'{dataset}', whose options are {words}.*none"):
        build(config)


def test_data_that_are_not_there(tmp_path):
    """Sampling needs only the shape of the data; all other modes need the data."""
    file = ROOT / "configs" / "vp" / "cifar10_ddpmpp_continuous.py"
    config = runpy.run_path(str(file))["get_config"]()
    config.data.path = str(tmp_path)
    with pytest.raises(FileNotFoundError, match="cifar10"):
        build(config)
    experiment = build(config, reads_data=False)
    assert experiment.shape == (32, 32, 3) and experiment.scaler.levels == 256
    with pytest.raises(FileNotFoundError, match="tfds cifar10, are not there"):
        experiment.train.fetch(np.arange(2))
    # The size of these images is known only from the data.
    config.data.name = "oxford_iiit_pet"
    with pytest.raises(FileNotFoundError, match="oxford_iiit_pet"):
        build(config, reads_data=False)
