"""The law of a table: from config to numbers, and the sentences where the table is not there."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from program import ROOT

import sde_lib
from build import build, build_path
from check import check_combinations
from configs.base import base
from configs.digits_kinetic import get_config
from sde_lib import Flow


def section(**changes):
    config = base("kinetic", "mlp", "digits").sde
    config.update(changes)
    return config


def write(folder, gamma, scale=1.0):
    file = folder / "table.json"
    theta = np.linspace(0.0, np.pi / 2, len(gamma))
    file.write_text(json.dumps({"theta": theta.tolist(), "gamma": gamma, "scale": scale}))
    return str(file)


def test_a_table_of_ones_is_the_straight_path(tmp_path):
    path = build_path(section(table=write(tmp_path, [1.0] * 5), t0=1e-4))
    t = jnp.linspace(0.01, 0.99, 9)
    np.testing.assert_allclose(path.coeffs(t).a, Flow().coeffs(t).a, rtol=1e-5)
    np.testing.assert_allclose(path.coeffs(t).c, Flow().coeffs(t).c, rtol=1e-5)
    assert (path.t0, path.t1) == (1e-4, 0.999)


def test_the_digits_config_from_any_folder(tmp_path, monkeypatch):
    """Its table is the file of the repository, whose stated length and energy are the law's."""
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


@pytest.mark.parametrize(
    "table, words",
    [
        ("", r"sde\.table is empty; make a table with `python -m tools\.kinetic_path"),
        ("no/such.json", r"no table no/such\.json; make it with"),
        ("README.md", r"README\.md cannot be read"),
    ],
)
def test_refusals(table, words):
    with pytest.raises(ValueError, match=words):
        build_path(section(table=table))


def test_the_flag_belongs_to_this_law_alone():
    config = base("vp", "mlp", "digits").sde
    config.unlock()
    config.table = "x.json"
    with pytest.raises(ValueError, match="whose numbers are"):
        build_path(config)
