"""The table of orders: its slope, one cell of each table, and a round trip."""

import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import orders as command
from samplers import PREDICTORS

pytestmark = pytest.mark.usefixtures("x64")


@pytest.mark.parametrize("order", [1, 2, 3])
def test_the_slope_of_a_power_is_its_exponent(order):
    errors = [7.0 * n**-order for n in command.SIZES]
    np.testing.assert_allclose(command.slope(errors), order)


def test_every_deterministic_predictor_is_in_the_table():
    listed = " ".join(command.METHODS).replace("reverse diffusion", "reverse_diffusion")
    listed = listed.replace("euler, flow", "euler_maruyama")
    assert all(name in listed for name in PREDICTORS.keys() - {"ancestral"})


def test_one_cell_of_the_orders(monkeypatch, capsys):
    monkeypatch.setattr(command, "METHODS", {"ddim": command.METHODS["ddim"]})
    monkeypatch.setattr(command, "LAWS", {"VP": command.LAWS["VP"]})
    monkeypatch.setattr(command, "SCHEDULES", {})
    (row,) = command.orders()
    assert abs(row["VP"] - 1.0) < 0.05 and row["stated"] == 1
    assert "ddim" in capsys.readouterr().out


def test_one_row_of_the_mixture(monkeypatch):
    monkeypatch.setattr(command, "REFERENCE", command.REFERENCE[:1])
    (row,) = command.mixture()
    assert row["off"] < 0.1


def test_a_round_trip_loses_rounding_alone():
    law = command.LAWS["VP"]
    x = jnp.asarray(np.random.default_rng(0).standard_normal((5, 1)))
    ts = command.samplers.make_grid("uniform_lam", law, 10, 0.01)
    off = command.round_trip(law, command.M1.predict(law), x, ts, 1.0)
    assert 0.0 < off < 1e-13
