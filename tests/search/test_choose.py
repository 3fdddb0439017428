"""The choice of a solver for one network: its numbers, its race, and what is kept of it."""

import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closed_form import M1
from fast_solvers import KEY

import samplers
from samplers.base import sample
from samplers.schedules.coefficients import Coefficients, apply, coefficients
from samplers.schedules.recipe import Recipe, load_recipe, run_recipe, save_recipe, times
from sde_lib import EDM, VP
from search import candidates as pool
from search.choose import choose, error_over_starts, race, spread
from search.score import Trajectories, trajectories

pytestmark = pytest.mark.usefixtures("x64")
LAW, EPS = EDM(t1=20.0), 0.02
PREDICT = M1.predict(LAW)

# A method of each build: multistep of both forms, with a corrector, on angles, of two stages.
METHODS = {
    "ddim": samplers.ddim,
    "dpm_multistep": partial(samplers.dpm_multistep, order=3, form="data"),
    "unipc": partial(samplers.unipc, order=2, form="noise"),
    "velocity_ab": partial(samplers.velocity_ab, order=3, sigma_data=0.7),
    "heun": samplers.heun,
}


def starts(law, n, seed=0):
    return jnp.asarray(law.t1 * np.random.default_rng(seed).standard_normal((n, 1)))


@pytest.mark.parametrize("denoise", [False, True])
@pytest.mark.parametrize("name", METHODS)
def test_the_numbers_of_a_method_are_the_method(name, denoise):
    method, ts = METHODS[name](LAW), samplers.make_grid("karras", LAW, 4, EPS)
    (table,) = coefficients(LAW, method, [(np.asarray(ts)[None], denoise)])
    x = starts(LAW, 3)
    each = Coefficients(*(np.repeat(v, 3, axis=0) for v in table))
    run = sample(KEY, PREDICT, method, x, ts, denoise=denoise)
    np.testing.assert_allclose(apply(PREDICT, x, each), run.x, rtol=1e-9)
    assert table.ts.shape == (1, run.nfe)


def test_two_grids_and_two_ends_share_a_step_and_not_their_numbers():
    grids = lambda n: np.stack(
        [np.asarray(samplers.make_grid("karras", LAW, n, EPS, rho=rho)) for rho in (3.0, 7.0)]
    )
    tables = coefficients(LAW, samplers.ddim(LAW), [(grids(3), False), (grids(2), True)])
    for table, n, last in zip(tables, (3, 2), (False, True)):
        ts = grids(n)
        np.testing.assert_allclose(table.ts, ts if last else ts[:, :-1], rtol=1e-12)
    # DDIM: the state is x0 + t eps of the evaluation before.
    first, second, third = (tables[0].rows[1, k] for k in (1, 2, 3))
    t1, t2 = grids(3)[1, 1:3]
    np.testing.assert_allclose(first, [0.0, 1.0, 0.0, 0.0, t1, 0.0, 0.0], atol=1e-12)
    np.testing.assert_allclose(second, [0.0, 0.0, 1.0, 0.0, 0.0, t2, 0.0], atol=1e-12)
    np.testing.assert_allclose(third, [0.0, 0.0, 0.0, 1.0, 0.0, 0.0, EPS], atol=1e-12)
    np.testing.assert_allclose(tables[1].rows[0, -1], np.eye(7)[3], atol=1e-12)


@pytest.fixture(scope="module", autouse=True)
def few_methods():
    """Fewer kinds of solver, each of which is a program to compile."""
    with pytest.MonkeyPatch.context() as patch:
        kinds = {name: own for name, own in pool.METHODS if own.get("form") != "data"}
        usual = ("dpm_multistep", {"order": 2, "form": "data"})
        patch.setattr(pool, "METHODS", (*kinds.items(), usual))
        patch.setattr(pool, "ORDERS", (3,))
        patch.setattr(pool, "SIZES", (2.0,))
        yield


@pytest.fixture(scope="module")
def chosen():
    with jax.enable_x64(True):
        known = trajectories(LAW, PREDICT, starts(LAW, 24, 1), EPS)
        found = pool.candidates(LAW, 6, EPS, spread(known.ends))
        return known, found, race(PREDICT, known, found, 96)


def test_the_race_is_won_by_the_candidate_of_least_error(chosen):
    known, found, (ranked, error) = chosen
    assert sorted(ranked) == list(range(len(found)))

    def error_of(recipe):
        out = run_recipe(LAW, recipe, EPS)(KEY, PREDICT, known.x).x
        return float(np.exp(np.mean(np.log(np.abs(np.asarray(out - known.ends))))))

    assert error == pytest.approx(error_of(found[ranked[0]].recipe), rel=1e-6)
    # Every 61st candidate, by its own sampler, is no better than the winner.
    assert all(error_of(found[i].recipe) >= error for i in range(0, len(found), 61))


def test_the_choice_carries_over_to_other_starts_and_beats_each_usual_solver(chosen):
    _, found, (ranked, _) = chosen
    other = trajectories(LAW, PREDICT, starts(LAW, 200, 2), EPS)

    def error_of(recipe):
        out = run_recipe(LAW, recipe, EPS)(KEY, PREDICT, other.x).x
        return float(np.exp(np.mean(np.log(np.abs(np.asarray(out - other.ends))))))

    usual = [
        candidate.recipe
        for candidate in found
        if candidate.grid in ("karras, rho 7", "uniform_lam")
        and (candidate.recipe.predictor, candidate.recipe.options.get("order"))
        in (("ddim", None), ("heun", None), ("dpm_multistep", 2), ("unipc", 3))
    ]
    assert len(usual) >= 8
    assert error_of(found[ranked[0]].recipe) < 0.7 * min(map(error_of, usual))


def test_a_few_starts_in_another_mode_do_not_decide():
    """Of 9 starts 5 or 4 end elsewhere. The medians differ by a factor of 50, the errors by
    1.1."""
    five, four = 0.01 * np.ones(9), 0.02 * np.ones(9)
    five[:5] = four[:4] = 1.0
    assert np.median(five) == 50.0 * np.median(four)
    np.testing.assert_allclose(error_over_starts(five), 0.01 ** (4 / 9), rtol=1e-12)
    np.testing.assert_allclose(error_over_starts(four), 0.02 ** (5 / 9), rtol=1e-12)
    both = error_over_starts(np.stack([[0.0, 1.0], [np.inf, 1.0]]))
    np.testing.assert_allclose(both, [1e-6, np.inf])


def test_conditions_go_with_their_starts():
    """Under cond the data are the point cond, which one step of DDIM meets exactly."""

    def predict(x, t, cond=None):
        x0 = jnp.broadcast_to(cond[:, None], x.shape)
        eps = (x - x0) / jnp.asarray(t).reshape(-1, *(1,) * (jnp.ndim(t) and x.ndim - 1))
        return samplers.schedules.coefficients.pair(LAW, x0, eps, jnp.broadcast_to(t, x.shape[:1]))

    cond = jnp.linspace(-2.0, 2.0, 8)
    choice = choose(LAW, predict, starts(LAW, 8), 2, EPS, cond, batch=16, fine=20)
    assert choice.about["error"] < 1e-9


def test_what_is_chosen_is_written_down_and_read_again(tmp_path):
    recipe = Recipe(
        "unipc", {"order": 1, "form": "noise", "variant": "b1"}, (-3.0, -0.5, 4.0), True
    )
    save_recipe(tmp_path / "own_3.json", recipe, {"nfe": 3})
    assert load_recipe(tmp_path / "own_3.json") == (recipe, {"nfe": 3})
    law = VP()
    ts = times(recipe, law, 1e-3)
    assert (ts[0], ts[-1]) == (1.0, 1e-3)
    np.testing.assert_allclose(law.lam(jnp.asarray(ts[1])), -0.5, rtol=1e-6)


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"lam": [-3.0, 4.0, 1.0]}, "do not fall"),
        ({"predictor": "dpmpp"}, "must be one of"),
        ({"options": {"order": 9}}, "order is 9"),
        ({"options": {"strength": 1}}, "do not fit"),
        ({"lam": [-3.0, float("nan"), 4.0]}, "holds no recipe"),
        ({"denoise": "yes"}, "holds no recipe"),
        ({"more": 1}, "holds no recipe"),
    ],
)
def test_a_recipe_that_cannot_be_run_is_refused(tmp_path, changed, sentence):
    data = {"predictor": "ddim", "options": {}, "lam": [-3.0, 0.0, 4.0], "denoise": False}
    data = {"about": {}, **data, **changed}
    if "options" in changed:
        data["predictor"] = "unipc"
    (tmp_path / "own_2.json").write_text(json.dumps(data))
    with pytest.raises(ValueError, match=sentence):
        run_recipe(EDM(), load_recipe(tmp_path / "own_2.json")[0], 0.002)


def test_a_network_without_a_finite_flow_and_a_budget_of_nothing_are_refused():
    broken = lambda x, t, cond=None: PREDICT(x * jnp.where(x > 0.0, jnp.nan, 1.0), t)
    with pytest.raises(ValueError, match="not finite for"):
        choose(LAW, broken, starts(LAW, 8), 4, EPS, fine=5)
    with pytest.raises(ValueError, match="at least 1 evaluation"):
        choose(LAW, PREDICT, starts(LAW, 8), 0, EPS)


def test_data_of_another_size_get_grids_of_that_size():
    """The levels of a grid scale with the data, so do those of the choice."""
    small, large = (pool.grids(LAW, 5, EPS, size) for size in (0.1, 1.0))
    name = lambda size: f"tangent, rho 3, sigma_mid {0.4 * size:.3g}"
    middle = lambda ts: np.interp(0.5, np.linspace(0, 1, len(ts)), np.log(ts))
    assert middle(small[name(0.1)]) < middle(large[name(1.0)])
    known = Trajectories(PREDICT, starts(LAW, 4), jnp.asarray([[1.0], [3.0], [1.0], [3.0]]))
    assert spread(known.ends) == 1.0
