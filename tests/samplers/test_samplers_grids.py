"""Time grids: ends, order, and errors for bad arguments."""

import json

import compiling
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from law_as_data import OneOf

from samplers import GRIDS, make_grid
from samplers.schedules.learned import found, schedule_file
from sde_lib import EDM, SDES, VP

LAWS = {name: law() for name, law in SDES.items()}
grids = pytest.mark.parametrize("name", GRIDS)


def law_as_data(name, grid):
    """Return the law; for grids that are one program in the tests, as an argument of it."""
    if grid in compiling.GRIDS:
        return OneOf(np.int32(list(LAWS).index(name)), tuple(LAWS.values()))
    return LAWS[name]


@grids
@pytest.mark.parametrize("steps", [1, 2, 1000])
def test_falls_strictly_between_exact_ends(name, steps):
    eps = 2e-3
    for law in LAWS:
        ts = make_grid(name, law_as_data(law, name), steps, eps)
        assert ts.shape == (steps + 1,) and ts.dtype == jnp.float32
        ts = np.asarray(ts)
        assert ts[0] == np.float32(LAWS[law].t1) and ts[-1] == np.float32(eps)
        assert np.all(np.diff(ts) < 0), law


@pytest.mark.parametrize("law_name", LAWS)
def test_each_grid_is_even_in_what_it_says(law_name, x64):
    eps, n, law = 2e-3, 10, LAWS[law_name]
    even_in = {
        "uniform": lambda ts, sigma: ts,
        "quadratic": lambda ts, sigma: ts**0.5,
        "uniform_lam": lambda ts, sigma: -np.log(sigma),
        "karras": lambda ts, sigma: sigma ** (1 / 7),
        "tangent": lambda ts, sigma: np.arctan((sigma / 0.35) ** (1 / 1.75)),
    }
    # For EDM, whose time is the noise level, the grid is even in VP's time.
    clock = lambda ts: VP().t_of_lam(law.lam(ts)) if isinstance(law, EDM) else ts
    even_in["two_stage"] = lambda ts, sigma: np.asarray(clock(ts)) ** (1 / 1.2)
    assert {*even_in, "learned"} == GRIDS.keys(), "a new grid needs a line here"
    for name, scale in even_in.items():
        ts = np.asarray(make_grid(name, law_as_data(law_name, name), n, eps))
        a, c = (np.asarray(v) for v in law.coeffs(ts))
        steps = np.diff(scale(ts, c / a))
        np.testing.assert_allclose(steps, steps[0], rtol=1e-6, err_msg=name)


def test_karras_is_the_published_formula():
    """`t_i = (max^(1/rho) + i / (N - 1) (min^(1/rho) - max^(1/rho)))^rho`, i < N (eq. 5).

    N - 1 steps lead from max to min. The paper's last step, to 0, is the denoising here.
    """
    N, low, high, rho = 18, 0.002, 80.0, 7.0
    i = np.arange(N)
    t = (high ** (1 / rho) + i / (N - 1) * (low ** (1 / rho) - high ** (1 / rho))) ** rho
    np.testing.assert_allclose(make_grid("karras", EDM(), N - 1, low), t, rtol=1e-5)


@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
def test_learned_has_the_noise_levels_of_the_search(law, x64):
    """At a file's number of steps the nodes are the file's; at other numbers they are between."""
    levels = lambda ts: np.exp(-np.asarray(law.lam(ts)))[1:-1]
    file = json.loads(schedule_file("digits_10").read_text())
    inner = np.exp(-np.asarray([step["lam"] for step in file["steps"][:-1]]))
    eps = 0.9 * float(law.t_of_lam(-jnp.log(inner[-1])))
    np.testing.assert_allclose(levels(make_grid("learned", law, 10, eps)), inner, rtol=1e-6)
    twice = levels(make_grid("learned", law, 11, eps))
    assert np.all((twice[:-1] > inner) & (inner > twice[1:]))


@grids
def test_refusals(name):
    with pytest.raises(ValueError, match=r"sampling\.steps is 0; .* at least 1"):
        make_grid(name, VP(), 0, 1e-3)
    for eps in (0.0, 1.0, 2.0):
        with pytest.raises(ValueError, match=r"sampling\.eps is .* between 0 and t1 = 1\.0"):
            make_grid(name, VP(), 10, eps)


def test_schedules_are_found_by_name_and_by_path(tmp_path):
    file = schedule_file("digits_10")
    assert schedule_file(str(file)) == file == found()[10]
    with pytest.raises(ValueError, match=r"no schedule 'digits_11'.* one of the names .*digits_10"):
        schedule_file("digits_11")
    with pytest.raises(ValueError, match=r"no schedule faces_N.json in .*; search for one first"):
        found("faces")
    with pytest.raises(ValueError, match=r"no schedule digits_N.json"):
        found(folder=tmp_path)


def test_too_many_steps_for_float32_are_refused():
    with pytest.raises(ValueError, match="repeats a time in float32; take fewer steps"):
        make_grid("uniform_lam", VP(), 10_000, 0.9999)


def test_a_law_that_is_an_argument_of_a_jitted_function():
    """One program makes the grids of two laws; grids that need numbers raise an error."""
    make = jax.jit(lambda law, name: make_grid(name, law, 8, 0.01), static_argnums=1)
    for name in ("uniform_lam", "karras"):
        for law in (VP(), VP(0.2, 10.0)):
            np.testing.assert_allclose(make(law, name), make_grid(name, law, 8, 0.01), rtol=1e-5)
    with pytest.raises(ValueError, match="'learned' reads numbers of the law, which is an arg"):
        make(VP(), "learned")
