"""The law of a table: from the config to numbers, and the errors for a missing table."""

import json

import jax
import numpy as np
import pytest
from closed_form import Gaussian
from program import ROOT

import sde_lib
from builders.checks import check_combinations
from builders.experiment import build
from builders.path import build_path
from configs.base import base
from configs.digits_kinetic import get_config
from sde_lib import example_keys, fold_in


def section(**changes):
    config = base("kinetic", "mlp", "digits").sde
    config.update(changes)
    return config


def write(file, gamma, scale=1.0):
    file.parent.mkdir(parents=True)
    theta = np.linspace(0.0, np.pi / 2, len(gamma))
    file.write_text(json.dumps({"theta": theta.tolist(), "gamma": gamma, "scale": scale}))


def test_a_table_of_ones_is_the_straight_path(tmp_path, monkeypatch):
    """A table in the current folder takes precedence over the program's file of the same name."""
    monkeypatch.chdir(tmp_path)
    name = get_config().sde.table
    write(tmp_path / name, [1.0] * 5)
    path = build_path(section(table=name, t0=1e-4))
    t = np.linspace(0.01, 0.99, 9, dtype=np.float32)
    a, c = jax.jit(path.coeffs)(t)
    np.testing.assert_allclose(a, 1.0 - t, rtol=1e-5)
    np.testing.assert_allclose(c, t, rtol=1e-5)
    assert (path.t0, path.t1) == (1e-4, 0.999)


def test_the_digits_config_from_any_folder(tmp_path, monkeypatch):
    """The config finds the repository's table from any folder. The length and the energy stated
    in the file are those of the law."""
    monkeypatch.chdir(tmp_path)
    config = get_config()
    check_combinations(config)
    path = build(config).path
    stated = json.loads((ROOT / config.sde.table).read_text())
    assert isinstance(path, sde_lib.Kinetic)
    np.testing.assert_allclose(path.table.length, stated["length"], atol=1e-6)
    energy = 2.0 * (1.0 - np.cos(stated["length"]))
    np.testing.assert_allclose(energy, stated["energy"], atol=1e-5)
    assert config.likelihood.eps == path.t0


def test_what_is_built_samples_and_weighs_gaussian_data():
    """The config's sampler and likelihood with the exact field of N(0.3, 0.5^2). The moments agree
    within 4 standard errors; log p agrees up to the data left in the prior, a(t1) = 1.3e-3."""
    experiment, data = build(get_config()), Gaussian.scalar(0.3, 0.5)
    path, n = experiment.path, 4000
    predict, at = data.predict(path), np.array([[-0.6], [0.2], [0.9]], np.float32)

    @jax.jit
    def run(indices, at):
        keys = example_keys(0, indices)
        start = path.prior_sample(fold_in(keys, 1), (n, 1))
        found = experiment.log_likelihood(jax.random.key(0), predict, at)
        return experiment.sample(keys, predict, start).x, found.logp

    x, logp = run(np.arange(n), at)
    assert abs(np.mean(x) - 0.3) < 4 * 0.5 / n**0.5
    assert abs(np.var(x) / 0.25 - 1.0) < 4 * (2 / n) ** 0.5
    np.testing.assert_allclose(logp, data.logp(path, at, path.t0), atol=5e-3)


@pytest.mark.parametrize(
    "table, words",
    [
        ("", r"sde\.table is empty; make a table with `python -m tools\.kinetic_path"),
        ("no/such.json", r"no table no/such\.json; make it with"),
        ("README.md", r"README\.md cannot be read"),
        ("configs", r"configs cannot be read \(IsADirectoryError"),
    ],
)
def test_refusals(table, words):
    with pytest.raises(ValueError, match=words):
        build_path(section(table=table))


@pytest.mark.parametrize("law", ["flow", "kinetic"])
def test_the_end_where_the_drift_is_infinite_is_refused(law):
    config = base(law, "mlp", "digits").sde
    config.t1 = 1.0
    if law == "kinetic":
        config.table = "configs/paths/digits.json"
    with pytest.raises(ValueError, match=r"sde\.t1 is 1\.0; it must be below 1, where the drift"):
        build_path(config)


def test_the_flag_belongs_to_this_law_alone():
    config = base("vp", "mlp", "digits").sde
    config.unlock()
    config.table = "x.json"
    with pytest.raises(ValueError, match="whose options are"):
        build_path(config)
