"""A network of the noise level: its training, its held-out measures, and its use in a chain."""

import json
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest
from tiny import TINY, tiny

from builders.experiment import build
from builders.levels import OLD_FILE, restored_levels
from configs.digits_vp_noise_level import get_config
from evaluation.report.rows import figure_rows
from evaluation.tasks.evaluate import evaluate
from evaluation.tasks.noise_level import make_held_out
from samplers.mcmc.levels import make_levels, mixture_logits
from sde_lib import EDM, VP
from training.checkpoint import CheckpointError
from training.metrics import read_metrics
from training.restore import restore_ema
from training.run import run_training

SHAPE, CENTERED = (8, 8, 1), True


def small(**changes):
    config = get_config()
    rest = {"model.levels": 16, "loss.noise_level.sigma_min": 0.1}
    rest |= {"training.n_iters": 60, "training.eval_freq": 30}
    given = {k: v for k, v in TINY.items() if not k.startswith(("model.", "optim."))}
    config.update_from_flattened_dict({**given, **rest, "training.batch_size": 64, **changes})
    return config


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The workdir, the experiment, the step and the averaged parameters of a trained network."""
    workdir, experiment = tmp_path_factory.mktemp("levels"), build(small())
    run_training(experiment, workdir)
    return workdir, experiment, *restore_ema(experiment, workdir)


def test_it_learns_and_is_reported(trained, tmp_path):
    """The levels are 0.48 apart in log sigma. At a large sigma the norm of the 64 numbers of y is
    enough to tell them apart."""
    workdir, experiment, step, params = trained
    rows = read_metrics(workdir)
    report = evaluate(experiment, params, tmp_path, step, rows, 1.0)
    found = report["noise_level"]
    assert step == 60 and found["uniform"] == pytest.approx(np.log(16.0))
    assert found["cross_entropy"] < 0.75 * found["uniform"] and found["log_sigma_error"] < 1.2
    # Both numbers estimate the same mean with different noise: 297 examples at 8 levels and at 4.
    assert report["eval_loss"] == pytest.approx(found["cross_entropy"], rel=0.1)
    assert [row["eval_loss"] for row in rows if "eval_loss" in row][-1] == report["eval_loss"]
    told = {row.name: row for row in figure_rows(report)}
    row = told["Cross-entropy of the noise level on test, nats"]
    assert (row.value, row.reference) == (found["cross_entropy"], found["uniform"])
    assert json.loads((tmp_path / "report.json").read_text())["noise_level"] == found


def test_a_chain_is_given_the_averaged_network_and_its_levels(trained):
    """The network also serves a run of another law, because y = x0 + sigma z is the same."""
    workdir, experiment, _, params = trained
    y = 10.0 * np.random.default_rng(0).standard_normal((3, 8, 8, 1)).astype(np.float32)
    for law in (VP(), EDM(t0=0.002, t1=200.0)):
        levels, logits = restored_levels(build, law, SHAPE, CENTERED, str(workdir))
        np.testing.assert_array_equal(logits(y), experiment.model.apply({"params": params}, y))
        wanted = np.geomspace(np.exp(-VP().lam(1.0)), 0.1, 16)
        np.testing.assert_allclose(levels.sigma, wanted, rtol=1e-4)
        np.testing.assert_allclose(law.sigma(levels.t), wanted, rtol=1e-3)
        # For nearly pure noise of sigma 10 the estimates are within two levels.
        guess = levels.sigma[np.argmax(logits(y), axis=1)]
        assert np.all(np.abs(np.log(guess / 10.0)) < 1.0), guess


def test_a_run_names_its_workdir(trained):
    config = tiny("vp", sampling__method="denoising_mcmc", sampling__grid="karras")
    config.sampling.denoising_mcmc.network = str(trained[0])
    assert build(config).sample
    # The config of a noise-level network may itself name this sampling method.
    other = small(**{"sampling.method": "denoising_mcmc", "sampling.grid": "karras"})
    other.sampling.denoising_mcmc.network = str(trained[0])
    assert build(other).levels


def test_by_default_levels_end_where_sampling_ends():
    found = build(get_config()).levels
    np.testing.assert_allclose(found.sigma[-1], np.exp(-VP().lam(1e-3)), rtol=1e-5)
    np.testing.assert_allclose(found.sigma[0], np.exp(-VP().lam(1.0)), rtol=1e-5)
    assert len(found.t) == 1000


def test_the_measure_is_that_of_the_exact_posterior():
    """With the exact logits for one point, the error of log sigma has two parts: that of the norm
    of 64 numbers, about 1 / sqrt(128), and the rounding to the grid."""
    levels = make_levels(VP(), 400, 0.05, 100.0)
    exact = mixture_logits(levels, jnp.zeros((1, 64)))
    experiment = SimpleNamespace(
        levels=levels,
        model=SimpleNamespace(apply=lambda variables, y: exact(y)),
        scaler=SimpleNamespace(to_model=lambda key, raw: raw),
        test=SimpleNamespace(fetch=lambda i: np.zeros((len(i), 64), np.float32), size=1000),
    )
    found = make_held_out(experiment)({})
    spacing = np.log(2000.0) / 399
    truth = (1.0 / 128 * (1.0 + 1.0 / 64) + spacing**2 / 12) ** 0.5
    # There are 4000 draws.
    assert abs(found.log_sigma_error / truth - 1.0) < 4.0 / (2 * 4000) ** 0.5
    assert found.uniform == pytest.approx(np.log(400.0))


def test_refusals(trained, tmp_path):
    for change, message in (
        ({"model.levels": 1}, "levels is 1"),
        ({"loss.noise_level.sigma_max": 1e6}, "1000000.0; take them rising and within"),
        ({"loss.name": "denoising"}, "'denoising', which trains ncsnpp"),
        ({"training.snapshot_sampling": True}, "draws no samples"),
    ):
        with pytest.raises(ValueError, match=message):
            build(small(**change))
    with pytest.raises(ValueError, match=r"has no score; name its workdir in sampling\.denoising"):
        trained[1].predict({})
    ask = lambda folder, **given: restored_levels(
        *(build, VP(), given.get("shape", SHAPE), given.get("centered", CENTERED), str(folder))
    )
    with pytest.raises(ValueError, match=r"without a config\.json, no network.*train one, with"):
        ask(tmp_path)
    (tmp_path / OLD_FILE).parent.mkdir()
    (tmp_path / OLD_FILE).write_bytes(b"of before")
    with pytest.raises(ValueError, match=r"classifier\.msgpack is of an earlier version"):
        ask(tmp_path)
    for given, words in (
        ({"shape": (4, 4, 1)}, r"the shape of an example = \(8, 8, 1\), and .* \(4, 4, 1\)"),
        ({"centered": False}, "data.centered = True, and this run has False"),
    ):
        with pytest.raises(ValueError, match=words):
            ask(trained[0], **given)
    (tmp_path / "config.json").write_text(json.dumps(small().to_dict()))
    with pytest.raises(CheckpointError, match="no checkpoint"):
        ask(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(tiny("vp").to_dict()))
    with pytest.raises(ValueError, match=r"classifier\.msgpack is of an earlier version"):
        ask(tmp_path)
    (tmp_path / OLD_FILE).unlink()
    with pytest.raises(ValueError, match=r"whose model\.name is 'mlp', no network of the noise"):
        ask(tmp_path)
