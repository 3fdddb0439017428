"""The table of orders: the fitted slope, one cell of each table, and a round trip."""

import jax
import numpy as np
import pytest
from closed_form import M1, Gaussian

from benchmarks.samplers import orders as command
from samplers import PREDICTORS

pytestmark = pytest.mark.usefixtures("x64")
VP = command.LAWS["VP"]


@pytest.mark.parametrize("order", [1, 2, 3])
def test_the_slope_of_a_power_is_its_exponent(order):
    errors = [7.0 * (1.0 / n) ** order for n in command.SIZES]
    np.testing.assert_allclose(command.slope(errors), order)


def test_every_predictor_with_a_deterministic_form_is_in_the_table():
    listed = " ".join(command.METHODS)
    # `weighted` has the order of the method whose weights it holds.
    assert all(name in listed for name in PREDICTORS.keys() - {"ancestral", "weighted"})


def test_the_data_are_those_of_the_tests():
    """Both problems agree with the closed forms of the tests, which share no code with them."""
    rng = np.random.default_rng(0)
    data = Gaussian(command.DATA.mean, (command.DATA.U * command.DATA.L) @ command.DATA.U.T)
    x, eps, truth = command.start_of(VP)
    np.testing.assert_allclose(truth, data.flow_map(VP, x, VP.t1, eps), rtol=1e-10)
    x, t = rng.standard_normal((7, 1)), np.linspace(0.01, 1.0, 7)
    found, exact = jax.jit(command.m1(VP))(x, t), M1.predict(VP)(x, t)
    for name in ("x0", "eps"):
        np.testing.assert_allclose(getattr(found, name), getattr(exact, name), atol=1e-11)


def test_one_cell_of_the_orders(monkeypatch, capsys):
    monkeypatch.setattr(command, "METHODS", {"ddim": command.METHODS["ddim"]})
    monkeypatch.setattr(command, "LAWS", {"VP": VP})
    monkeypatch.setattr(command, "SCHEDULES", {})
    (row,) = command.orders()
    assert abs(row["VP"] - 1.0) < 0.05 and row["stated"] == 1
    printed = next(line for line in capsys.readouterr().out.splitlines() if "ddim" in line)
    assert "*" not in printed


def test_an_exact_beginning_shows_the_order_that_the_first_step_hides():
    assert abs(command.begun_slope(command.METHODS["adams_bashforth 3 noise"][0]) - 3.0) < 0.2


def test_one_row_of_the_mixture(monkeypatch):
    monkeypatch.setattr(command, "REFERENCE", command.REFERENCE[:1])
    (row,) = command.mixture()
    assert row["off"] < 0.1


def test_round_trips_lose_rounding_alone_at_gamma_one():
    down, up = command.round_trips(VP, 10)
    assert max(down[0], up[0]) < 1e-13
    assert down[0] < down[-1] < 1e-10
