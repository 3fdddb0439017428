"""Weights: read off a method, run as `weighted`, and fitted to a network."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closed_form import M1, Gaussian
from fast_solvers import KEY

import samplers
from samplers.base import sample
from samplers.schedules.recipe import Recipe, run_recipe
from sde_lib import EDM, VP
from search.score import trajectories
from search.weights import fit_kinds, fit_weights, rows_of

pytestmark = pytest.mark.usefixtures("x64")
LAW, EPS = EDM(t1=20.0), 0.02
PREDICT = M1.predict(LAW)

# Multistep methods of each build: of both forms, with a corrector, and on angles.
METHODS = (
    ("ddim", {}),
    ("dpm_multistep", {"order": 3, "form": "noise"}),
    ("unipc", {"order": 2, "form": "data"}),
    ("adams_bashforth", {"order": 3, "form": "noise", "basis": "rho"}),
    ("velocity_ab", {"order": 3, "sigma_data": 0.7}),
)


def starts(law, n, seed=0):
    return jnp.asarray(law.t1 * np.random.default_rng(seed).standard_normal((n, 1)))


def recipe_of(predictor="dpm_multistep", steps=5, law=LAW, **options):
    lam = np.array(law.lam(samplers.make_grid("uniform_lam", law, steps, EPS)))
    lam[1:-1] += 0.1 * np.random.default_rng(1).uniform(-1.0, 1.0, steps - 1)
    return Recipe(predictor, options, tuple(map(float, lam)))


def triangle(rows):
    return [row[: i + 2] for i, row in enumerate(np.asarray(rows).tolist())]


@pytest.mark.parametrize("law", [LAW, VP()], ids=["edm", "vp"])
def test_the_weights_of_a_method_are_the_method(law):
    x, predict = starts(law, 4), M1.predict(law)
    for predictor, options in METHODS:
        recipe = recipe_of(predictor, law=law, **options)
        own = recipe._replace(
            predictor="weighted", options={"weights": triangle(rows_of(law, recipe, EPS))}
        )
        ends = [run_recipe(law, r, EPS)(KEY, predict, x).x for r in (recipe, own)]
        np.testing.assert_allclose(*ends, rtol=1e-7, err_msg=predictor)


def test_without_weights_it_is_ddim_whose_rows_have_one_weight():
    ts, x = samplers.make_grid("karras", LAW, 5, EPS), starts(LAW, 3)
    run = lambda method: sample(KEY, PREDICT, method, x, ts).x
    np.testing.assert_array_equal(run(samplers.weighted(LAW)), run(samplers.ddim(LAW)))
    rows = rows_of(LAW, recipe_of("ddim", 4), EPS)
    np.testing.assert_allclose(rows, np.eye(4, 5, 1) + np.eye(1, 5), atol=1e-9)


def test_a_linear_flow_is_met():
    """The flow of a Gaussian is one factor, which the weights of three evaluations can express. A
    distance below `FLOOR` counts as none."""
    predict, x = Gaussian.scalar(0.0, 0.8).predict(LAW), starts(LAW, 8)
    exact = x * np.sqrt((0.8**2 + EPS**2) / (0.8**2 + LAW.t1**2))
    known = trajectories(LAW, predict, x, EPS)._replace(ends=exact)
    first = recipe_of(steps=3, order=2, form="data")
    error = lambda r: np.max(np.abs(run_recipe(LAW, r, EPS)(KEY, predict, x).x / exact - 1.0))
    assert error(first) > 0.05
    assert error(fit_weights(LAW, known, first, EPS, 100)) < 1e-4


def test_a_fit_carries_over_to_other_starts():
    known, fresh = (trajectories(LAW, PREDICT, starts(LAW, n, n), EPS) for n in (96, 200))
    first = recipe_of(order=2, form="noise")
    (fitted,) = fit_kinds([first, first], lambda r: fit_weights(LAW, known, r, EPS, 60), 3)
    assert fitted.predictor == "weighted"
    assert (fitted.lam[0], fitted.lam[-1]) == (first.lam[0], first.lam[-1])
    assert np.all(np.diff(fitted.lam) > 0.0)

    def error(recipe):
        out = run_recipe(LAW, recipe, EPS)(KEY, PREDICT, fresh.x).x
        return float(np.median(np.abs(np.asarray(out - fresh.ends))))

    assert error(fitted) < 0.3 * error(first)


def test_rows_that_cannot_be_run_are_refused():
    with pytest.raises(ValueError, match=r"row 1 the numbers.*must have 3"):
        samplers.weighted(LAW, [[1.0, 1.0], [1.0, 1.0]])
    with pytest.raises(ValueError, match=r"row 0 .*finite"):
        samplers.weighted(LAW, [[1.0, np.nan]])
    ts = samplers.make_grid("karras", LAW, 3, EPS)
    with pytest.raises(ValueError, match="1 rows and the grid has 3 steps"):
        sample(KEY, PREDICT, samplers.weighted(LAW, [[1.0, 1.0]]), starts(LAW, 1), ts)
    with pytest.raises(ValueError, match="2 evaluations a step"):
        rows_of(LAW, recipe_of("heun"), EPS)
    assert fit_kinds([recipe_of("heun")], jax.numpy.asarray, 3) == []
