"""Whole searches for schedules, their determinism, and the schedules in configs/solvers/."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closed_form import M1
from fast_solvers import KEY
from rk4 import runge_kutta

from benchmarks.samplers.searched import fixed
from samplers.exponential.unified import unified
from samplers.schedules.learned import found
from samplers.schedules.schedule import evaluations, load, nodes
from sde_lib import EDM
from search import Effort, Task, evolve, multistep, search
from search.known import baselines, grid_nodes
from search.problem import LAW as DIGITS_LAW
from search.problem import denoise, predict_fn, score, solve
from search.score import Trajectories
from search.sets import TRAIN, problem_of
from tools import search_solver

LAW, EPS = EDM(t1=20.0), 0.02
SMALL = Effort(generations=2, bred=20, ranked=4, lots=4, parents=5, refined=1, early=10, late=30)


def paths(n, seed):
    x = LAW.t1 * np.random.default_rng(seed).standard_normal((n, 1))
    end = jax.jit(lambda x: runge_kutta(LAW, M1, x, EPS, 1000))(x)
    return Trajectories(M1.predict(LAW), jnp.asarray(x), M1.predict(LAW)(end, EPS).x0)


def test_the_best_of_an_evolution_never_gets_worse():
    """Evolution keeps its parents, so its best score never gets worse; the seed determines all.

    The score here is an arbitrary function of the nodes.
    """
    _, first = zip(*baselines(LAW, 5, EPS))
    aim = np.linspace(0.0, 1.0, 6) ** 1.7

    def score(schedules):
        lam = np.asarray(
            [np.interp(aim, np.linspace(0, 1, len(nodes(s))), nodes(s)) for s in schedules]
        )
        return np.abs(lam - (lam[:, :1] + (lam[:, -1:] - lam[:, :1]) * aim)).max(axis=1)

    runs = [evolve(seed, first, 5, score, SMALL) for seed in (0, 0, 1)]
    for run in runs:
        assert np.all(np.diff(run.best) <= 0.0) and np.all(np.diff(run.scores) >= 0.0)
        assert run.best[-1] == run.scores[0] <= score(first).min()
        assert len(run.schedules) == len(first) + 2 * (4 + 4)
    assert runs[0].schedules == runs[1].schedules != runs[2].schedules


@pytest.mark.slow
def test_a_search_beats_its_baselines_on_new_starts(x64):
    """A search beats its baselines on starts that it did not use, and reports such errors."""
    task = Task(LAW, EPS, *([paths(n, seed)] for n, seed in ((16, 0), (24, 1), (24, 2))), (1.0,))
    result = search(task, 5, seed=0, effort=SMALL, say=lambda text: None)
    assert evaluations(result.schedule) == 5 and result.about["nfe"] == 5
    new = paths(40, 3)
    run = lambda s: jax.jit(lambda x: unified(LAW, s)(KEY, new.predict, x).x)
    error = lambda s: np.median(np.abs(np.asarray(run(s)(new.x)) - new.ends))
    mine = error(result.schedule)
    lam = grid_nodes(LAW, "karras", 5, EPS)
    assert mine < 0.5 * error(multistep(lam))
    assert mine < 0.5 * error(multistep(lam, 2, "data", "dpm"))
    # The search's own report, from other starts, gives similar errors.
    assert 0.4 < mine / result.about["fresh"][0] < 2.5
    assert result.about["fresh"][0] <= next(iter(result.about["published"].values()))[0]
    with pytest.raises(ValueError, match="nfe is 2; a search needs at least 3"):
        search(task, 2)


@pytest.mark.slow
def test_the_command_writes_what_a_run_can_load(tmp_path, monkeypatch):
    """The command writes a schedule that a run can load.

    It uses only two training sets, because each set makes every program of the search longer.
    """
    monkeypatch.setattr(
        search_solver, "TRAIN", {name: TRAIN[name] for name in ("binary", "points")}
    )
    effort = "--generations 1 --bred 8 --ranked 2 --lots 2 --refined 1 --early 1 --late 2"
    where = f"--nfe 4 --starts 8 --out {tmp_path} --name tried"
    search_solver.main([*where.split(), *effort.split()])
    schedule = load(tmp_path / "tried_4.json")
    about = json.loads((tmp_path / "tried_4.json").read_text())["about"]
    assert evaluations(schedule) == 4 == about["nfe"]
    # There is one error per training set, and the nodes go from sigma = 80 to 0.002.
    assert len(about["fresh"]) == 2
    np.testing.assert_allclose(nodes(schedule)[0], -np.log(80.0))
    np.testing.assert_allclose(nodes(schedule)[-1], -np.log(0.002))


@pytest.mark.slow
def test_the_kept_schedules_beat_half_the_default_recipe_on_data_no_search_saw(x64):
    """The stored schedules have less than half of the default recipe's error on new digits.

    The truth is a solve of the exact flow to 1e-9, from starts that no search used.
    """
    problem = problem_of("digits 512-1023")
    x = 80.0 * np.random.default_rng([7, 7]).standard_normal((16, 64))
    problem = problem._replace(starts=x)
    ends = denoise(problem, solve(problem, 1e-9), DIGITS_LAW.t0)
    predict = predict_fn(problem)

    def error(run):
        return score(np.asarray(jax.jit(lambda x: run(predict, x).x)(jnp.asarray(x))), ends)

    assert {5, 8, 10, 15, 20, 40} <= found().keys()
    for nfe, file in found().items():
        assert evaluations(load(file)) == nfe
        run = unified(DIGITS_LAW, load(file))
        searched = error(lambda predict, x, run=run: run(KEY, predict, x))
        assert searched < 0.5 * error(lambda predict, x, n=nfe: fixed(n, predict, x)), nfe
