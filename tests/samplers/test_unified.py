"""Solver schedules: published solvers as schedules, the estimator, orders, counts and the file."""

import json
import math
from fractions import Fraction
from functools import partial
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closed_form import M1, Empirical
from fast_solvers import KEY, LAWS, even_lam, rms, slope
from law_as_data import for_each
from rk4 import runge_kutta
from scipy.stats import norm

from samplers import adams_bashforth, ddim, dpm_multistep, dpm_solver, sample, unipc
from samplers.exponential.tableau import Table, estimates, phis, table_of
from samplers.exponential.unified import drive, unified
from samplers.schedules.schedule import (
    Schedule,
    Step,
    evaluations,
    from_dict,
    load,
    nodes,
    save,
    to_dict,
)
from sde_lib import EDM, VP
from search.known import multistep, single

pytestmark = pytest.mark.usefixtures("x64", "strict_ranks")
DEPTH = 5

# Each solver as its own implementation, and as a schedule on the nodes lam.
RECOVERED = {
    "ddim": (ddim, multistep),
    "dpm 2M noise": (partial(dpm_multistep, form="noise"), partial(multistep, order=2, kind="dpm")),
    "dpm 2M data": (dpm_multistep, partial(multistep, order=2, form="data", kind="dpm")),
    "dpm 3M noise": (
        partial(dpm_multistep, order=3, form="noise"),
        partial(multistep, order=3, kind="dpm"),
    ),
    "dpm 3M data": (
        partial(dpm_multistep, order=3),
        partial(multistep, order=3, form="data", kind="dpm"),
    ),
    "dpm 2S noise": (partial(dpm_solver, form="noise"), single),
    "dpm 2S data": (partial(dpm_solver, form="data"), partial(single, form="data")),
    "dpm 3S noise": (partial(dpm_solver, order=3, form="noise"), partial(single, order=3)),
    "adams 4 data": (
        partial(adams_bashforth, order=4),
        partial(multistep, order=4, form="data"),
    ),
    **{
        f"unipc {p} {form} {b}": (
            partial(unipc, order=p, form=form, variant=b),
            partial(multistep, order=p, form=form, kind=b),
        )
        for p, form, b in [
            (1, "noise", "b1"),
            (1, "data", "b2"),
            (2, "noise", "b1"),
            (2, "data", "b2"),
            (3, "noise", "b2"),
            (3, "data", "b2"),
            (4, "data", "b1"),
        ]
    },
}
LAM = -2.5 + 5.5 * np.linspace(0.0, 1.0, 13) ** 1.2
START = np.exp(2.5) * np.random.default_rng(0).standard_normal((20, 1))


def stacked(tables):
    return Table(*(np.stack(parts) for parts in zip(*tables)))


def run_tables(law, x, ts, correct, predict):
    """Return the ends of runs by tables, mapped over the tables."""
    quiet = np.zeros(ts.shape[1] - 1, bool)

    def one(ts, correct, predict):
        return drive(M1.predict(law), x, Table(ts, correct, predict, quiet), (DEPTH,) * 3)[0]

    return jax.vmap(one)(ts, correct, predict)


def tables(law, schedules):
    """Return the stacked tables of schedules of equal length, which evaluate no state twice."""
    found = stacked([table_of(law, s, depth=DEPTH) for s in schedules])
    assert not found.again.any()
    return found[:3]


def level(law, lam):
    """Return the times of lam, and `a` at these times."""
    t = np.asarray(law.t_of_lam(np.asarray(lam)))
    return t, np.asarray(law.coeffs(t).a)


def cut(law):
    """Return the law with t1 at the first node of LAM, and the start there."""
    t1, a = level(law, LAM[0])
    return law.replace(t1=float(t1)), a * START


@pytest.fixture(scope="module")
def recovered():
    """Return `x / a` at the end by schedules, `(method, B, 1)`, for every law."""
    with jax.enable_x64(True):
        run, ends = for_each(LAWS, run_tables), {}
        schedules = [make(on_nodes(method)) for method, (_, make) in RECOVERED.items()]
        for name, law in LAWS.items():
            short, x = cut(law)
            a = level(law, LAM[-1])[1]
            ends[name] = np.asarray(run(name, x, *tables(short, schedules))) / a
        return ends


def own_end(law, method):
    """Return `x / a` at the end by the method's own implementation."""
    law, x = cut(law)
    sampler, (ts, a) = RECOVERED[method][0](law), level(law, on_nodes(method))
    run = jax.jit(lambda x, ts: sample(KEY, M1.predict(law), sampler, x, ts).x)
    return np.asarray(run(x, ts)) / a[-1]


def evaluations_a_step(method):
    return 2 if "2S" in method else 3 if "3S" in method else 1


def on_nodes(method):
    """Return the nodes between steps, such that every method makes twelve evaluations in all."""
    return LAM[:: evaluations_a_step(method)]


@pytest.mark.parametrize("method", RECOVERED)
def test_every_published_solver_is_a_schedule(recovered, method):
    """Schedules of published solvers give the solvers' ends on VP, up to some hundred roundings."""
    found = recovered["vp"][list(RECOVERED).index(method)]
    np.testing.assert_allclose(found, own_end(VP(), method), rtol=0, atol=1e-12)


@pytest.mark.parametrize("law_name", LAWS)
def test_laws_agree_in_the_rescaled_state(recovered, law_name):
    """In `x / a` each schedule gives the same end for every law. The tolerance is larger because
    the large coefficients of the noise form of order 4 multiply the rounding where `a` is small."""
    np.testing.assert_allclose(recovered[law_name], recovered["vp"], rtol=0, atol=1e-11)


@pytest.mark.parametrize("law_name, method", [("ve", "unipc 3 data b2"), ("flow", "dpm 2S noise")])
def test_solvers_on_other_laws(recovered, law_name, method):
    found = recovered[law_name][list(RECOVERED).index(method)]
    np.testing.assert_allclose(found, own_end(LAWS[law_name], method), rtol=0, atol=1e-12)


def test_phi_against_its_series():
    z = np.array([-6.0, -1.0, -1e-3, 0.0, 1e-9, 0.5, 3.0, 6.0])
    for k in range(5):
        series = [
            float(sum(Fraction(v) ** n / math.factorial(n + k + 1) for n in range(60))) for v in z
        ]
        np.testing.assert_allclose(phis(z)[:, k], series, rtol=1e-13)


def test_derivatives_are_exact_for_polynomials_and_of_their_order_beyond():
    """m points are exact for polynomials of degree m; for exp the error is `O(r^(m + 1 - k))`."""
    r = np.array([[-0.7, -1.5, 1.0, -2.1]])
    for m in range(1, 5):
        w = estimates(r, np.full((1, 4), m) * (np.arange(1, 5) <= m))[0]
        assert not w[m:].any() and not w[:, m:].any()
        for degree in range(m + 1):
            truth = [math.factorial(degree) * (k == degree) for k in range(1, 5)]
            np.testing.assert_allclose(w @ r[0] ** degree * (degree > 0), truth, atol=1e-11)
        for k in range(1, m + 1):
            miss = [
                abs(estimates(h * r, np.full((1, 4), m))[0, k - 1] @ np.expm1(h * r[0]) - 1.0)
                for h in (0.02, 0.01)
            ]
            assert abs(np.log2(miss[0] / miss[1]) - (m + 1 - k)) < 0.1


def started(lam, order, corrector, relax=(), corrector_relax=()):
    """Return a schedule of two single steps of order 3, then multistep of one order, so that no
    step has a lower order. The nodes are those of the multistep part; single steps use three."""
    steps = list(single(lam[::3][:3], 3).steps)
    corrected = {"corrector": corrector, "corrector_relax": corrector_relax}
    for end in lam[7:]:
        steps.append(Step(float(end), order=order, relax=relax, **corrected))
    return Schedule(float(lam[0]), (*steps[:-1], steps[-1]._replace(corrector="none")))


def test_orders_of_convergence():
    """Multistep of n points has order n, or n + 1 with the pseudo corrector, for any relaxation."""
    cases = {
        "1": (1, partial(started, order=1, corrector="none")),
        "1 corrected": (2, partial(started, order=1, corrector="pseudo")),
        "1 corrected, relaxed": (
            2,
            partial(started, order=1, corrector="pseudo", corrector_relax=(0.3,)),
        ),
        "2": (2, partial(started, order=2, corrector="none")),
        "2 relaxed": (2, partial(started, order=2, corrector="none", relax=(-0.4,))),
        "2 b1": (2, partial(started, order=2, corrector="none", relax=("b1",))),
        "2 corrected": (3, partial(started, order=2, corrector="pseudo")),
        "3": (3, partial(started, order=3, corrector="none")),
    }
    sizes, errors, law = (192, 384), [], VP()
    x = norm.ppf((np.arange(200) + 0.5) / 200)[:, None]
    solution = np.asarray(jax.jit(lambda x: runge_kutta(law, M1, x, 0.01, 1000))(x))
    for n in sizes:
        schedules = [make(even_lam(n)) for _, make in cases.values()]
        run = jax.jit(lambda x, *parts: run_tables(law, x, *parts))
        errors.append(rms(run(x, *tables(law, schedules)), solution))
    slopes = {name: slope(sizes, e) for name, e in zip(cases, np.transpose(errors))}
    wrong = {name: s for name, s in slopes.items() if abs(s - cases[name][0]) > 0.35}
    assert not wrong, slopes


def test_an_implicit_corrector_evaluates_the_corrected_state():
    """On EDM, where `dx = eps dsigma`, the implicit corrector equals a loop in NumPy. Each step has
    a predictor of order 1, a corrector of order 2 with the weights `phi_1 - phi_2` and `phi_2` of
    the exponential trapezoid, and an evaluation of the corrected state."""
    law, lam = EDM(), np.linspace(-np.log(80.0), 4.0, 9)
    steps = [Step(float(v), corrector="implicit") for v in lam[1:-1]]
    run = unified(law, Schedule(float(lam[0]), (*steps, Step(float(lam[-1])))))
    predict = lambda x, t: M1.predict(law)(x, t).eps
    x = start = 80.0 * START / np.exp(2.5)
    for i, (a, b) in enumerate(pairwise(lam)):
        h, s = b - a, np.exp(-b)
        now = predict(x, np.exp(-a))
        guess = x - s * np.expm1(h) * now
        if i < len(lam) - 2:
            late = (np.expm1(h) / h - 1.0) * (predict(guess, s) - now)
            guess = x - s * (np.expm1(h) * now + late)
        x = guess
    found = jax.jit(lambda x: run(KEY, M1.predict(law), x))(start)
    np.testing.assert_allclose(found.x, x, rtol=0, atol=1e-12)
    assert int(found.nfe) == 15


def test_every_step_may_be_of_another_kind():
    """Steps may differ in form, start, order and points; the truth is a fine quadrature."""
    law, lam = EDM(), np.array([-2.0, -1.2, -0.3, 0.1, 0.9])
    steps = (
        Step(lam[1], "data"),
        Step(lam[2], "noise", -2, 2),
        Step(lam[3], "data", -1, 3),
        Step(lam[4], "noise", -2, 2, (1,)),
    )
    law = law.replace(t1=float(np.exp(2.0)))
    x, run = START / np.exp(0.5), unified(law, Schedule(lam[0], steps))
    found = jax.jit(lambda x: run(KEY, M1.predict(law), x).x)(x)
    # The nodes whose outputs each step's polynomial goes through; the first is the step's start.
    through = [(0,), (0, 1), (2, 1, 0), (2, 3)]
    states, outputs = [x], []
    for i, (step, points) in enumerate(zip(steps, through)):
        outputs.append(M1.predict(law)(states[i], np.exp(-lam[i])))
        values = [np.asarray(outputs[j].eps if step.form == "noise" else outputs[j].x0)[:, 0]
                  for j in points]  # fmt: skip
        fit = np.polyfit(lam[list(points)], np.stack(values), len(points) - 1)
        start, end = lam[points[0]], lam[i + 1]
        l, w = np.polynomial.legendre.leggauss(30)
        l, w = start + (end - start) * (l + 1) / 2, w * (end - start) / 2
        output = np.stack([np.polyval(fit[:, b], l) for b in range(len(x))])
        if step.form == "noise":
            x = states[points[0]] - (output * (w * np.exp(-l))[None]).sum(1, keepdims=True)
        else:
            integral = (output * (w * np.exp(l - end))[None]).sum(1, keepdims=True)
            x = np.exp(start - end) * states[points[0]] + integral
        states.append(x)
    np.testing.assert_allclose(found, x, rtol=0, atol=1e-12)


def test_an_analytic_first_step():
    """An analytic first step is exact for one data point; on the mixture its error is O(a)."""
    law, point = VP(), np.array([[0.3, -1.1]])
    x = np.random.default_rng(0).standard_normal((5, 2))
    schedule = multistep(np.asarray(law.lam(np.linspace(1.0, 0.01, 6))), 2)
    run = unified(law, schedule._replace(analytic=True), mean=jnp.asarray(point[0]))
    (a_t, a_s), (c_t, c_s) = (np.asarray(v) for v in law.coeffs(np.array([1.0, 0.01])))
    truth = a_s * point + c_s / c_t * (x - a_t * point)
    found = jax.jit(lambda x: run(KEY, Empirical(point).predict(law), x).x)(x)
    np.testing.assert_allclose(found, truth, atol=1e-12)
    # In one step on the mixture, the error of the output is a^2 / c times the variance and x.
    mean, errors = float(M1.weights @ M1.means[:, 0]), []
    x = np.random.default_rng(0).standard_normal((2000, 1))
    for beta in (10.0, 14.0):
        law = VP(beta_max=beta)
        lam = np.asarray(law.lam(np.array([1.0, 0.5])))
        one = multistep(lam)
        guess = unified(law, one._replace(analytic=True), mean=mean)

        @jax.jit
        def both(x, law=law, one=one, guess=guess):
            found = guess(KEY, M1.predict(law), x, collect=lambda state: state.x)
            return found, unified(law, one)(KEY, M1.predict(law), x).x

        found, exact = jax.device_get(both(x))
        assert found.trace.shape == (1, 2000, 1) and int(found.nfe) == 0
        (a, _), (c, late) = (np.asarray(v) for v in law.coeffs(np.array([1.0, 0.5])))
        noise = (found.x - exact) / (late * np.expm1(lam[1] - lam[0]))
        # eps - (x - a mean) / c = -a (x0 - mean) / c, with x0 - mean close to a var x.
        errors.append(np.sqrt(np.mean(noise**2)) / (a**2 / c))
    variance = float(M1.moments(VP(), 1e-9)[1][0, 0])
    np.testing.assert_allclose(errors, variance, rtol=0.1)


@pytest.mark.parametrize("denoise", [False, True])
@pytest.mark.parametrize("kind", ["plain", "analytic", "implicit"])
def test_counts_are_those_of_the_real_calls(kind, denoise):
    law, calls = EDM(), []

    def predict(x, t):
        jax.debug.callback(lambda: calls.append(1))
        return M1.predict(law)(x, t)

    schedule = multistep(np.linspace(-4.3, 4.0, 6), 2, "data", "b2", denoise)
    if kind == "implicit":
        steps = [s._replace(corrector=s.corrector.replace("pseudo", kind)) for s in schedule.steps]
        schedule = schedule._replace(steps=tuple(steps))
    schedule = schedule._replace(analytic=kind == "analytic")
    run = jax.jit(lambda x: unified(law, schedule)(KEY, predict, x).nfe)
    nfe = jax.block_until_ready(run(np.ones((2, 1))))
    jax.effects_barrier()
    expected = 5 + denoise + {"plain": 0, "analytic": -1, "implicit": 4}[kind]
    assert len(calls) == int(nfe) == evaluations(schedule) == expected


def test_ends_are_put_where_they_are_asked_for():
    law, schedule = EDM(), multistep(np.linspace(-4.0, 4.0, 6), 2, denoise=True)
    table = table_of(law, schedule, eps=0.004)
    assert table.ts[0] == 80.0 and table.ts[-1] == 0.004
    np.testing.assert_allclose(table.ts[1:-1], np.exp(-np.asarray(nodes(schedule)[1:-1])))
    with pytest.raises(ValueError, match="take a smaller eps"):
        table_of(law, schedule, eps=0.5)
    with pytest.raises(ValueError, match="as little noise at t1 = 5"):
        table_of(EDM(t1=5.0), schedule)


def test_the_file_gives_the_schedule_back(tmp_path):
    schedule = multistep(LAM.tolist(), 3, "data", "b2", denoise=True)
    save(tmp_path / "s.json", schedule, {"data": "digits"})
    assert load(tmp_path / "s.json") == schedule
    assert json.loads((tmp_path / "s.json").read_text())["about"] == {"data": "digits"}
    assert from_dict(to_dict(schedule)) == schedule


def step(**kwargs):
    return {"first": 0.0, "steps": [{"lam": 1.0}, {"lam": 2.0, **kwargs}, {"lam": 3.0}]}


@pytest.mark.parametrize(
    "data, message",
    [
        ({"first": 0.0, "steps": []}, "no steps"),
        ({"steps": [{"lam": 1.0}]}, "lacks the key 'first'"),
        ({"first": 0.0, "steps": [{"lam": 1.0}], "nodes": 3}, "key 'nodes'"),
        (step(lamda=1.0), "Step 2 of the schedule has the key 'lamda'"),
        (step(order=True), "order = True, which is of the wrong type"),
        (step(order="2"), "order = '2', which is of the wrong type"),
        (step(lam=0.5), "lam = 0.5, but nodes must rise above 1.0"),
        (step(lam=float("nan")), "lam = nan"),
        (step(form="v"), "form is 'v'"),
        (step(start=-3), "starts at -3; it must lie between -2 and -1"),
        (step(start=0), "starts at 0"),
        (step(order=3), "has order 3; it must lie between 1 and 2"),
        (step(order=2, points=[1, 1]), "order 2 needs 1"),
        (step(order=2, points=[2]), "estimates derivative 1 from 2 points; take 1 to 1"),
        (step(corrector="full"), "corrector 'full'"),
        (step(order=2, relax=["b3"]), "relaxation 'b3'"),
        (step(order=2, relax=[float("inf")]), "relaxation inf"),
        (step(relax=[0.1]), "1 relaxations for 0 derivatives"),
        (step(corrector="pseudo", order=2, corrector_relax=[0.0, "b1"]), "belongs to the first"),
        ({"first": 0.0, "steps": [{"lam": 1.0, "corrector": "pseudo"}]}, "last one takes none"),
    ],
)
def test_refusals(data, message):
    with pytest.raises(ValueError, match=message):
        from_dict(data)


def test_a_file_that_is_none_is_named(tmp_path):
    (tmp_path / "bad.json").write_text("[]")
    for name in ("bad.json", "missing.json"):
        with pytest.raises(ValueError, match=name):
            load(tmp_path / name)
