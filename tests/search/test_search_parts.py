"""The parts of the search for schedules: scores, refinement, breeding and ranking."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closed_form import M1
from fast_solvers import KEY
from rk4 import runge_kutta

from samplers import make_grid, sample, unipc
from samplers.exponential.tableau import WIDTH, Table, table_of
from samplers.exponential.unified import drive, unified
from samplers.schedules.schedule import Step, check, evaluations, nodes
from sde_lib import EDM
from search import multistep, refiner, scorer, single, trajectories
from search.evolve import kind
from search.known import baselines, grid_nodes
from search.population import breed
from search.ranking import Ranker, agreement
from search.refine import numeric
from search.score import Trajectories

pytestmark = pytest.mark.usefixtures("x64")
LAW, EPS = EDM(t1=20.0), 0.02
PREDICT = M1.predict(LAW)


def starts(n, seed=0):
    return LAW.t1 * np.random.default_rng(seed).standard_normal((n, 1))


def end_of(schedule, x):
    return np.asarray(jax.jit(lambda x: unified(LAW, schedule)(KEY, PREDICT, x).x)(x))


@pytest.fixture(scope="module")
def known():
    """Return trajectories with the ends of the exact flow, denoised."""
    with jax.enable_x64(True):
        x = starts(24)
        end = jax.jit(lambda x: runge_kutta(LAW, M1, x, EPS, 1000))(x)
        return Trajectories(PREDICT, jnp.asarray(x), PREDICT(end, EPS).x0)


@pytest.fixture(scope="module")
def refine(known):
    return refiner(LAW, [known], [1.0], rate=0.05)


@pytest.fixture(scope="module")
def score(known):
    return scorer(LAW, [known], batch=2)


def lam(steps, grid="karras"):
    return grid_nodes(LAW, grid, steps, EPS)


def test_the_truth_of_a_network_is_its_flow(known):
    found = trajectories(LAW, PREDICT, known.x, EPS)
    np.testing.assert_allclose(found.ends, known.ends, rtol=0, atol=2e-7)


def test_a_score_is_the_median_distance_of_each_set(known):
    """Scores of schedules of different lengths and ends come in the given order, for any batch."""
    other = Trajectories(PREDICT, starts(24)[:5], known.ends[:5] + 0.25)
    schedules = [
        multistep(lam(6), 2, "data", "b2"),
        multistep(lam(5), denoise=True),
        single(lam(3)),
        multistep(lam(6, "tangent"), 3, "noise", "adams"),
    ]
    score = scorer(LAW, [known, other], batch=2)(schedules)
    for schedule, row in zip(schedules, score):
        end = end_of(schedule, starts(24))
        for paths, value in zip((known, other), row):
            distance = np.sqrt(np.mean((end[: len(paths.x)] - paths.ends) ** 2, axis=1))
            np.testing.assert_allclose(value, np.median(distance), rtol=1e-9)


def test_a_schedule_that_diverges_has_an_infinite_score(score):
    steps = (Step(-2.0), Step(-1.9, order=2, relax=(1e300,)), Step(3.0, order=2, relax=(1e300,)))
    wild = multistep(lam(5))._replace(steps=(*steps, Step(3.1), Step(3.2)))
    found = score([wild, multistep(lam(5))])
    assert np.isinf(found[0, 0]) and np.isfinite(found[1, 0])


def test_named_relaxations_as_numbers_are_the_same_method():
    x = starts(9)
    for schedule in (multistep(lam(6), 2, "data", "b2"), multistep(lam(6), 3, "noise", "dpm")):
        plain = numeric(schedule)
        assert not any(isinstance(f, str) for step in plain.steps for f in step.relax)
        ends = [end_of(s, x) for s in (schedule, plain)]
        np.testing.assert_allclose(*ends, rtol=1e-11)


def test_refinement_lowers_the_loss_and_keeps_ends_order_and_decisions(refine, score):
    schedule = multistep(lam(5), 2, "data", "b2")
    found, losses = refine(schedule, 40)
    before, after = score([schedule, found])[:, 0]
    assert after < 0.5 * before
    assert min(losses) < losses[0] - 0.5
    assert kind(found) == kind(schedule) and evaluations(found) == 5
    assert nodes(found)[0] == nodes(schedule)[0] and np.all(np.diff(nodes(found)) > 0)
    np.testing.assert_allclose(nodes(found)[-1], nodes(schedule)[-1], rtol=1e-12)
    none, _ = refine(schedule, 1)  # After one step, the best iterate is still the start.
    np.testing.assert_allclose(score([none])[0, 0], before, rtol=1e-9)


def test_the_gradient_of_a_refinement_is_that_of_the_loss(known, refine):
    """Adam's first step goes against the finite difference of the loss, for each step length."""
    # This schedule is not near its best, so that the first step goes down.
    schedule = multistep(lam(5, "uniform_lam"), 2, "noise", "adams")
    gaps = np.log(np.diff(nodes(schedule)))

    @jax.jit
    def run(ts, correct, predict, x):
        table = Table(ts, correct, predict, np.zeros(5, bool))
        return drive(PREDICT, x, table, (WIDTH + 1,) * 3)[0]

    def loss(gaps):
        part = np.exp(gaps) / np.exp(gaps).sum()
        at = nodes(schedule)[0] + (nodes(schedule)[-1] - nodes(schedule)[0]) * np.cumsum(part)
        steps = [s._replace(lam=float(v)) for s, v in zip(numeric(schedule).steps, at)]
        moved = schedule._replace(steps=tuple(steps))
        end = run(*table_of(LAW, moved, depth=WIDTH + 1)[:3], starts(24))
        return np.mean(np.log(np.sqrt(np.mean((end - known.ends) ** 2, axis=1)) + 1e-7))

    ways = np.eye(5) * 1e-6
    slope = np.asarray([loss(gaps + way) - loss(gaps - way) for way in ways]) / 2e-6
    moved = np.log(np.diff(nodes(refine(schedule, 2)[0])))
    # The shares are what is kept, so the lengths are compared up to a common factor.
    step = moved - gaps
    step -= step.mean()
    expected = -0.05 * np.sign(slope)
    expected -= expected.mean()
    np.testing.assert_allclose(step, expected, atol=1e-3)


def test_children_can_be_run_and_keep_budget_and_ends():
    rng = np.random.default_rng(0)
    _, parents = zip(*baselines(LAW, 6, EPS))
    first, last = nodes(parents[0])[0], nodes(parents[0])[-1]
    seen = set()
    for _ in range(400):
        child = breed(rng, list(parents), 6)
        check(child)
        assert evaluations(child) == 6
        assert nodes(child)[0] == first and abs(nodes(child)[-1] - last) < 1e-12
        seen |= {(s.form, s.start, s.order, s.corrector) for s in child.steps}
    # Breeding reaches every kind of decision.
    assert {form for form, *_ in seen} == {"noise", "data"}
    assert {start for _, start, *_ in seen} == {-1, -2}
    assert {order for *_, order, _ in seen} == {1, 2, 3, 4}
    assert {corrector for *_, corrector in seen} == {"none", "pseudo"}


def test_baselines_are_the_published_solvers():
    schedules = dict(baselines(LAW, 6, EPS))
    assert all(evaluations(schedule) == 6 for schedule in schedules.values())
    ts = make_grid("karras", LAW, 5, EPS)
    run = lambda x: sample(KEY, PREDICT, unipc(LAW, 2, "data"), x, ts, denoise=True).x
    found = end_of(schedules["unipc 2 b2 data, karras + denoise"], starts(4))
    np.testing.assert_allclose(found, jax.jit(run)(starts(4)), rtol=1e-9)


def test_the_ranking_orders_schedules_it_has_not_seen(known):
    """The ranking, fitted to a part of a population, orders the rest, by Kendall's tau.

    For random orders tau has a standard deviation of 0.067 at 100 schedules.
    """
    rng = np.random.default_rng(0)
    _, parents = zip(*baselines(LAW, 5, EPS))
    everyone = [breed(rng, list(parents), 5) for _ in range(300)]
    scores = np.log(scorer(LAW, [known])(everyone)[:, 0])
    ranker = Ranker(5, seed=0)
    ranker.fit(everyone[:200], scores[:200])
    assert agreement(ranker.predict(everyone[200:]), scores[200:]) > 0.2
    assert agreement(np.arange(9.0), np.arange(9.0) ** 3) == 1.0
    assert agreement(np.arange(9.0), -np.arange(9.0)) == -1.0
