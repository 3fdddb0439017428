"""Adaptive sampling by the flow ODE and the reverse SDE, to a tolerance."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closed_form import Gaussian
from law_as_data import for_each

from samplers import SOLVERS, Solver, adaptive_ode, adaptive_sde
from samplers.adaptive.diffrax_solves import flow
from samplers.adaptive.solver import solve_ode
from sde_lib import EDM, VE, VP, Flow, SubVP, example_keys

PLANE = Gaussian(np.array([0.4, -0.7]), np.array([[0.5, 0.2], [0.2, 0.3]]))
LAWS = {"vp": VP(), "subvp": SubVP(), "ve": VE(), "edm": EDM(), "flow": Flow()}
EPS = {"vp": 1e-3, "subvp": 1e-3, "ve": 1e-5, "edm": 2e-3, "flow": 1e-5}
TOLERANCES = (1e-4, 1e-6, 1e-8)
KEY = jax.random.key(0)


def counted(f, calls=None):
    """Return the function with a counter of its calls on the host.

    A callback without arguments runs once for all mapped examples, so it counts the longest solve
    of a batch.
    """
    calls = [] if calls is None else calls

    def wrapped(*args):
        jax.debug.callback(lambda: calls.append(1))
        return f(*args)

    return wrapped, calls


@pytest.mark.parametrize("method", SOLVERS)
def test_solver_entry(method, x64):
    """A solve of `y' = -3 sin(5 t) y`, forwards and backwards, meets its tolerance.

    The stated number of evaluations is right, with rejected steps.
    """
    field, calls = counted(lambda t, y: -3.0 * jnp.sin(5.0 * t) * y)
    exact = lambda t: np.exp(0.6 * (np.cos(5.0 * t) - 1.0))

    @jax.jit
    def solve(y0, t0, t1, tol):
        one = lambda y: solve_ode(field, y, t0, t1, Solver(method, tol, tol))
        return jax.vmap(one)(y0)

    y0 = np.array([[1.0], [-2.5]])
    for t0, t1 in ((0.0, 2.0), (2.0, 0.3)):
        for tol in (1e-3, 1e-6):
            calls.clear()
            y, nfe, failed = jax.device_get(solve(y0, t0, t1, tol))
            jax.effects_barrier()
            assert np.max(nfe) == len(calls) and not np.any(failed)
            assert np.max(abs(y - y0 * exact(t1) / exact(t0))) < 20 * tol


def test_count_without_mapping(x64):
    """The number of evaluations is right without `vmap` too."""
    field, calls = counted(lambda t, y: -y)
    solve = jax.jit(lambda y: solve_ode(field, y, 0.0, 1.0, Solver("tsit5")))
    nfe = jax.block_until_ready(solve(np.ones(2))).nfe
    jax.effects_barrier()
    assert nfe == len(calls) > 10


def test_ode_reaches_the_flow_map(x64):
    """For Gaussian data the error is of the order of the tolerance, and falls with it."""
    calls = []

    def run(law, x, eps, tol):
        predict, _ = counted(PLANE.predict(law), calls)
        return adaptive_ode(law, eps, Solver("dopri5", tol, tol))(KEY, predict, x)

    run, z = for_each(LAWS, run), np.random.default_rng(0).standard_normal((4, 2))
    for name in ("vp", "subvp", "ve", "edm"):
        law, eps = LAWS[name], EPS[name]
        x = float(law.prior_std()) * z
        reference = PLANE.flow_map(law, x, law.t1, eps)
        errors, previous = [], 0
        for tol in TOLERANCES:
            calls.clear()
            result = jax.device_get(run(name, x, eps, tol))
            jax.effects_barrier()
            errors.append(np.max(np.abs(result.x - reference)))
            assert np.max(result.nfe) == len(calls) > previous and result.nfe.shape == (4,)
            assert not np.any(result.failed)
            previous = len(calls)
        # The tolerance is for local errors, the comparison for the global error.
        assert np.all(np.array(errors) < 100 * np.array(TOLERANCES)), (name, errors)


def test_no_sample_is_wrong_unnoticed():
    """All of 2048 samples are right at loose tolerances, in the variable that the configs name.

    Without a longest step, 29 to 66 of them had errors of 0.1 and more on VP and sub-VP. Over t,
    EDM's largest errors would be several times these.
    """
    data, z = Gaussian.scalar(0.3, 0.7), np.random.default_rng(0).standard_normal((2048, 1))

    def run(law, x, eps, tol, variable="t"):
        solver = Solver(rtol=tol, atol=tol, variable=variable)
        return adaptive_ode(law, eps, solver)(KEY, data.predict(law), x)

    in_t = for_each(LAWS, run)
    in_lam = jax.jit(lambda name, *args: run(LAWS[name], *args, "lam"), static_argnums=0)
    for name, law in LAWS.items():
        x = np.float32(law.prior_std() * z)
        reference = data.flow_map(law, x, law.t1, EPS[name])
        for tol in (1e-2, 1e-3, 1e-4, 1e-5):
            result = jax.device_get((in_lam if name == "edm" else in_t)(name, x, EPS[name], tol))
            assert np.max(np.abs(result.x - reference)) < 10 * tol, (name, tol)
            assert not np.any(result.failed) and np.mean(result.nfe) < 125


def test_variable_of_integration(x64):
    """In every variable, with any sigma_data, solves in both directions end where the flow does.

    They make different numbers of evaluations. The two tests above have solves over t.
    """

    def run(law, x, eps):
        predict = PLANE.predict(law)
        solver = lambda **frame: Solver("dopri8", 1e-9, 1e-9, **frame)
        in_lam = flow(law, predict, x, eps, solver(variable="lam", sigma_data=0.5), "data")
        angle = solver(variable="angle", sigma_data=0.8)
        in_angle = flow(law, predict, x, eps, angle, "data")
        return in_lam, in_angle, flow(law, predict, in_angle.y, eps, angle, "noise")

    run, z = for_each(LAWS, run), np.random.default_rng(0).standard_normal((4, 2))
    for name, law in LAWS.items():
        x = float(law.prior_std()) * z
        in_lam, in_angle, back = jax.device_get(run(name, x, EPS[name]))
        reference = PLANE.flow_map(law, x, law.t1, EPS[name])
        assert np.all(in_lam.nfe != in_angle.nfe)
        for end in (in_lam, in_angle):
            assert not np.any(end.failed)
            np.testing.assert_allclose(end.y, reference, atol=1e-6, err_msg=name)
        np.testing.assert_allclose(back.y, x, rtol=1e-5, atol=1e-5, err_msg=name)


def test_data_of_one_size_do_not_move_in_the_frame():
    """For Gaussian data of std sigma_data the slope in z is zero, so the fewest steps are exact."""
    law, data = VP(), Gaussian.scalar(0.0, 0.7)
    x = np.float32(np.random.default_rng(0).standard_normal((16, 1)))
    reference = data.flow_map(law, x, law.t1, 1e-3)
    for variable in ("lam", "angle"):
        solver = Solver("heun", 1e-4, 1e-4, variable=variable, sigma_data=0.7)
        end = jax.jit(lambda x, s=solver: flow(law, data.predict(law), x, 1e-3, s, "data"))(x)
        np.testing.assert_allclose(end.y, reference, rtol=1e-4, atol=1e-5)
        assert np.max(end.nfe) <= 2 * 12


def test_frames_that_do_not_exist():
    start = np.zeros((1, 2), np.float32)
    run = lambda to="data", **change: flow(
        VP(), PLANE.predict(VP()), start, 1e-3, Solver()._replace(**change), to
    )
    with pytest.raises(ValueError, match="variable is 's'; it must be one of t, lam, angle"):
        run(variable="s")
    with pytest.raises(ValueError, match=r"sigma_data is 0\.0"):
        run(variable="angle", sigma_data=0.0)
    with pytest.raises(ValueError, match="to is 'prior'"):
        run("prior")
    with pytest.raises(ValueError, match="variable is 'angle'; the adaptive SDE"):
        adaptive_sde(VP(), 1e-3, Solver(variable="angle"))


def test_ode_in_float32_at_the_default_tolerance():
    """In float32 at the default tolerance, with a last denoising of one more evaluation."""
    law, eps, predict = VP(), np.float32(0.01), PLANE.predict(VP())
    run = jax.jit(lambda x: adaptive_ode(law, 0.01, Solver(), denoise=True)(KEY, predict, x))
    x = np.float32(np.random.default_rng(0).standard_normal((16, 2)))
    result, reference = jax.device_get(run(x)), PLANE.flow_map(law, x, 1.0, eps)
    assert result.x.dtype == np.float32
    np.testing.assert_allclose(result.x, predict(reference, eps).x0, atol=2e-4)
    assert np.max(abs(result.x - reference)) > 1e-3
    assert np.all(result.nfe % 6 == 2)  # 1 + 6 n of the solve, and 1


@pytest.fixture(scope="module")
def short_solves():
    """Return `(x, tolerance) -> result` of at most 60 steps, per example and jointly."""

    def of(per_example):
        solver = lambda tol: Solver("bosh3", tol, tol, 60)
        method = lambda tol: adaptive_ode(VP(), 1e-3, solver(tol), per_example)
        run = jax.jit(lambda x, tol: method(tol)(KEY, PLANE.predict(VP()), x))
        return lambda x, tol: jax.device_get(run(x, tol))

    return {True: of(True), False: of(False)}


FOUR = np.float32(np.random.default_rng(0).standard_normal((4, 2)))


def test_example_does_not_depend_on_its_batch_but_a_joint_solve_does(short_solves):
    others = FOUR * np.float32([[1], [8], [8], [8]])

    def gap(per_example):
        first, second = (short_solves[per_example](x, 1e-3) for x in (FOUR, others))
        assert first.nfe.shape == first.failed.shape == (4,) and not np.any(first.failed)
        return np.max(np.abs(first.x[0] - second.x[0])), first

    alone, result = gap(True)
    joint, together = gap(False)
    assert alone < 1e-6 and joint > 1e-5
    assert len(np.unique(together.nfe)) == 1
    np.testing.assert_allclose(result.x, together.x, atol=1e-2)


@pytest.mark.parametrize("per_example", [True, False])
def test_ode_failure_is_reported(per_example, short_solves):
    """Too few steps or a value that is not finite give `failed` and nan."""
    run = short_solves[per_example]
    result = run(FOUR, 1e-6)
    assert np.all(result.failed) and np.all(np.isnan(result.x))
    assert not np.any(run(FOUR, 1e-3).failed)
    holed = FOUR.copy()
    holed[1] = np.nan
    result = run(holed, 1e-3)
    expected = [False, True, False, False] if per_example else [True] * 4
    np.testing.assert_array_equal(result.failed, expected)
    np.testing.assert_array_equal(np.isnan(result.x).any(1), expected)


# Data that are narrow in half of their directions. Over t, at a tolerance of 0.1, these directions
# keep noise of several times their own spread.
ROW = Gaussian(np.full(16, 0.4), np.diag(np.repeat([0.3, 0.02], 8) ** 2))
ORDER = np.arange(64)
STARTS = np.float32(np.random.default_rng(0).standard_normal((64, 16)))


@pytest.fixture(scope="module")
def reverse_sde():
    """Return `(name, x, tolerance, order) -> result` over lam, and the list of calls.

    `order` has the numbers of the examples, which seed their keys. The network returns nan for a
    state above 1e6.
    """
    calls = []

    def run(law, x, tol, order, eps):
        exact = ROW.predict(law)
        broken = lambda x, t: jax.tree.map(
            lambda v: jnp.where(abs(x) > 1e6, jnp.nan, v), exact(x, t)
        )
        solver = Solver(rtol=tol, atol=tol, variable="lam")
        predict, _ = counted(broken, calls)
        return adaptive_sde(law, eps, solver)(example_keys(0, order), predict, x)

    compiled = for_each(LAWS, run)

    def of(name, x, tol, order=ORDER):
        return jax.device_get(compiled(name, x[order], tol, order, EPS[name]))

    return of, calls


@pytest.mark.slow
@pytest.mark.optimised
@pytest.mark.parametrize("name", LAWS)
def test_sde_has_the_moments_of_the_data_and_one_path_for_all_tolerances(name, reverse_sde):
    """64 examples of 16 dimensions have the data's mean and variance within four standard errors.

    The key determines the Brownian path: distances to the solve at 2e-3 fall with the tolerance, as
    about its power 0.7. With unrelated paths they would be 0.4, the spread of the data. Strengths
    other than 1 are in test_strength.py.
    """
    law, n = LAWS[name], 64
    run, calls = reverse_sde
    x = np.float32(law.prior_std() * STARTS)
    ends, counts = [], []
    for tol in (1e-1, 1e-2, 2e-3):
        calls.clear()
        result = run(name, x, tol)
        jax.effects_barrier()
        assert not np.any(result.failed)
        # ShARK evaluates the drift twice in each attempted step.
        assert np.max(result.nfe) == len(calls) and np.all(result.nfe % 2 == 0)
        ends.append(np.asarray(result.x, np.float64))
        counts.append(np.mean(result.nfe))
    mean, cov = ROW.moments(law, EPS[name])
    z = ((ends[1] - mean) / np.sqrt(np.diag(cov))).reshape(n, 2, 8)
    assert np.all(abs(z.mean((0, 2))) < 4 / (8 * n) ** 0.5)
    assert np.all(abs(np.mean(z**2, (0, 2)) - 1) < 4 * (2 / (8 * n)) ** 0.5)
    gaps = [np.sqrt(np.mean((end - ends[2]) ** 2)) for end in ends[:2]]
    assert gaps[0] < 0.05 and gaps[1] < gaps[0] / 3, gaps
    assert np.all(np.diff(counts) > 0) and counts[0] < 250
    again = run(name, x, 1e-1, ORDER[::-1]).x[::-1]
    np.testing.assert_allclose(again, ends[0], atol=2e-3)


def test_sde_ends_at_once_where_a_state_is_not_finite(reverse_sde):
    """An example with a nan start, or with nan from the network, is reported and ends at once.

    The batch does not wait for it until `max_steps`.
    """
    run, _ = reverse_sde
    x = np.ones((64, 16), np.float32)
    whole = run("vp", x, 1e-1)
    x[1, 0], x[2, 0] = np.nan, 1e7
    result = run("vp", x, 1e-1)
    expected = np.isin(np.arange(64), (1, 2))
    np.testing.assert_array_equal(result.failed, expected)
    np.testing.assert_array_equal(np.isnan(result.x).any(1), expected)
    assert result.nfe[1] <= result.nfe[2] < 10
    np.testing.assert_array_equal(result.x[~expected], whole.x[~expected])


def test_sde_failure_is_reported_and_one_key_serves_a_batch():
    law = VP()
    method = adaptive_sde(law, 1e-3, Solver(max_steps=5), denoise=True)
    result = jax.jit(lambda x: method(KEY, PLANE.predict(law), x))(np.ones((3, 2), np.float32))
    assert np.all(result.failed) and np.all(np.isnan(result.x))
    np.testing.assert_array_equal(result.nfe, 2 * 5 + 1)
    with pytest.raises(ValueError, match="without noise take"):
        adaptive_sde(law, 1e-3, Solver(), eta=0.0)
