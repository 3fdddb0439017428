"""DPM-Solver in single steps and with a fixed budget, and the exponential steps they consist of."""

import math
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closed_form import M1, Gaussian
from rk4 import errors, runge_kutta

from samplers import State, ddim, make_grid, sample
from samplers.dpm_fast import dpm_fast, step_orders
from samplers.dpm_solver import dpm_solver
from samplers.exponential import FORMS, interval, phi
from sde_lib import EDM, VE, VP, Flow, SubVP
from sde_lib.prediction import Prediction

pytestmark = pytest.mark.usefixtures("x64", "strict_ranks")
KEY = jax.random.key(0)
LAWS = {"vp": VP(), "subvp": SubVP(), "ve": VE(), "edm": EDM(), "flow": Flow(t1=0.95)}
POINT = Gaussian(np.array([0.4, -0.7]), np.zeros((2, 2)))
PLANE = Gaussian(np.array([0.4, -0.7]), np.array([[0.5, 0.2], [0.2, 0.3]]))

# Of 24, 48, 96 and 192 evaluations on M1, computed elsewhere.
FIGURES = {
    (2, "noise"): [2.4e-2, 5.4e-3, 1.3e-3, 3.2e-4],
    (2, "data"): [2.4e-2, 7.1e-3, 2.0e-3, 5.3e-4],
    (3, "noise"): [8.6e-3, 5.0e-4, 7.2e-5, 1.0e-5],
}


def normals(n, dims):
    return jnp.asarray(np.random.default_rng(0).standard_normal((n, dims)))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_phi_near_zero_and_far(dtype):
    """Against the series in exact fractions."""
    for z in (0.0, 1e-8, 1e-4, 1e-3, 0.03, 0.5, 0.99, 1.01, 3.0, 8.0):
        for signed in (z, -z):
            exact = Fraction(float(dtype(signed)))
            for k in range(1, 5):
                truth = float(sum(exact**n / math.factorial(n + k) for n in range(60)))
                found = phi(k, jnp.asarray(signed, dtype))
                assert found.dtype == dtype
                assert abs(float(found) / truth - 1.0) < 40 * jnp.finfo(dtype).eps, (k, signed)
    assert jax.grad(lambda z: phi(2, z))(0.0) == pytest.approx(1 / 6)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("law", LAWS)
def test_order_one_is_ddim(law, form):
    law, x = LAWS[law], normals(50, 1)
    t, s = law.t_of_lam(jnp.asarray(-1.0)), law.t_of_lam(jnp.asarray(0.7))
    ours, theirs = (
        method.step(KEY, M1.predict(law), State(x), t, s).x
        for method in (dpm_solver(law, 1, form), ddim(law))
    )
    np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-13)


@pytest.fixture(scope="module")
def mixture_end():
    """2000 normal starts on VP and where the flow of M1 takes them."""
    with jax.enable_x64(True):
        start = normals(2000, 1)
        yield start, jax.jit(lambda x: runge_kutta(VP(), M1, x, 0.01, 1000))(start)


@pytest.mark.parametrize(("order", "form"), FIGURES)
def test_mixture_figures(order, form, mixture_end):
    """Within 10 %, and the slope between the two longest runs."""
    sizes = [nfe // order for nfe in (24, 48, 96, 192)]
    found = errors(VP(), M1, lambda law: dpm_solver(law, order, form), sizes, 0.01, *mixture_end)
    np.testing.assert_allclose(found, FIGURES[order, form], rtol=0.1)
    assert abs(np.log2(found[2] / found[3]) - order) < 0.2


@pytest.mark.parametrize(("order", "form"), [(2, "noise"), (2, "data"), (3, "noise"), (3, "data")])
def test_order_with_other_stages(order, form):
    """Against the flow map of Gaussian data. The order hangs on r2 = 2/3 alone, not on r1."""
    law, start, sizes = VP(), normals(6, 2), (64, 128)
    reference = PLANE.flow_map(law, start, 1.0, 1e-3)
    method = lambda law: dpm_solver(law, order, form, r1=0.4)
    found = errors(law, PLANE, method, sizes, 1e-3, start, reference)
    assert abs(np.log2(found[0] / found[1]) - order) < 0.25, found


@pytest.mark.parametrize("law", LAWS)
def test_a_point_is_reached_in_one_step(law):
    """Data at one point: noise and data are constant along the path, so every order is exact."""
    law, x = LAWS[law], 3.0 * normals(5, 2)
    t, s = law.t_of_lam(jnp.asarray(-2.0)), law.t_of_lam(jnp.asarray(3.0))
    (a, _, c), (a_s, _, c_s) = law.coeffs(t), law.coeffs(s)
    truth = a_s * POINT.mean[None] + c_s * (x - a * POINT.mean[None]) / c
    for form in FORMS:
        for order in (1, 2, 3):
            step = dpm_solver(law, order, form).step
            found = step(KEY, POINT.predict(law), State(x), t, s).x
            np.testing.assert_allclose(found, truth, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("form", FORMS)
def test_rescaled_states_agree_between_laws(form):
    """In `x / a` the same computation for every law, on the same grid in lam."""
    lam, y0, results = jnp.linspace(-3.0, 3.0, 9), np.exp(3.0) * normals(50, 1), {}
    for name, law in LAWS.items():
        ts, predict, method = law.t_of_lam(lam), M1.predict(law), dpm_solver(law, 3, form)
        a = law.coeffs(ts).a
        run = jax.jit(lambda x, p=predict, m=method, ts=ts: sample(KEY, p, m, x, ts).x)
        results[name] = run(a[0] * y0) / a[-1]
    for name, y in results.items():
        np.testing.assert_allclose(y, results["vp"], atol=1e-11, rtol=1e-10, err_msg=name)


@pytest.mark.parametrize("form", FORMS)
def test_small_steps_in_float32(form):
    """2000 steps of order 3 stay at the flow map: no term of a short step is lost to rounding."""
    law, start = VP(), normals(8, 2)
    reference = PLANE.flow_map(law, start, 1.0, 1e-3)
    with jax.enable_x64(False):
        x, ts = jnp.asarray(start, jnp.float32), make_grid("uniform_lam", law, 2000, 1e-3)
        method = dpm_solver(law, 3, form)
        found = jax.jit(lambda x: sample(KEY, PLANE.predict(law), method, x, ts).x)(x)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, reference, atol=5e-4)


def calls(jaxpr):
    """How often the marker `erf_inv` runs, inside loops of known length too."""
    total = 0
    for equation in jaxpr.eqns:
        total += equation.primitive.name == "erf_inv"
        for inner in jax.tree.leaves(equation.params, is_leaf=lambda v: hasattr(v, "eqns")):
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                total += equation.params.get("length", 1) * calls(inner)
    return total


def test_a_budget_is_spent_exactly():
    def predict(x, t):
        marked = jax.lax.erf_inv(x)
        return Prediction(marked, marked, marked, marked)

    for nfe in range(1, 31):
        denoise = nfe % 4 == 0
        run = dpm_fast(EDM(), nfe, 2e-3, denoise=denoise)
        jaxpr = jax.make_jaxpr(lambda x, f=run: f(KEY, predict, x))(jnp.ones((2, 1)))
        assert calls(jaxpr.jaxpr) == nfe + denoise
    assert step_orders(9) == [3, 3, 2, 1] and step_orders(10) == [3, 3, 3, 1]
    assert step_orders(11) == [3, 3, 3, 2] and step_orders(1) == [1] and step_orders(3) == [2, 1]


def test_a_budget_run_by_hand(mixture_end):
    """Eleven evaluations: three steps of order 3 and one of order 2, even in lam or by their cost.

    And the error falls with the budget: twice as many evaluations, less than a third of the error.
    """
    law, (start, truth) = VP(), mixture_end
    predict = M1.predict(law)
    for grid, parts, at in (("uniform_lam", 4, [0, 1, 2, 3, 4]), ("uniform", 11, [0, 3, 6, 9, 11])):
        ts = make_grid(grid, law, parts, 0.01)[jnp.asarray(at)]

        @jax.jit
        def by_hand(x, ts=ts):
            xs = [x]
            for i, order in enumerate((3, 3, 3, 2)):
                step = dpm_solver(law, order, "data").step
                xs.append(step(KEY, predict, State(xs[-1]), ts[i], ts[i + 1]).x)
            return jnp.stack(xs[1:])

        run = dpm_fast(law, 11, 0.01, "data", grid)
        result = jax.jit(lambda x, f=run: f(KEY, predict, x, lambda state: state.x))(start[:20])
        np.testing.assert_allclose(result.trace, by_hand(start[:20]), rtol=1e-10)
        np.testing.assert_array_equal(result.x, result.trace[-1])
        assert result.nfe == 11
    gaps = []
    for nfe in (24, 48):
        run = dpm_fast(law, nfe, 0.01)
        end = jax.jit(lambda x, f=run: f(KEY, predict, x))(start).x
        gaps.append(float(jnp.sqrt(jnp.mean((end - truth) ** 2))))
    assert gaps[1] < gaps[0] / 3 and gaps[0] < 0.05, gaps


def test_what_is_refused():
    law = VP()
    with pytest.raises(ValueError, match="order of DPM-Solver is 4"):
        dpm_solver(law, 4)
    with pytest.raises(ValueError, match="form is 'x'"):
        dpm_solver(law, 2, "x")
    with pytest.raises(ValueError, match=r"r1 = 0\.8 and"):
        dpm_solver(law, 3, r1=0.8)
    with pytest.raises(ValueError, match=r"eta is 0\.5"):
        interval(law, jnp.asarray(0.9), jnp.asarray(0.5), "noise", 0.5)
    with pytest.raises(ValueError, match="budget is 0"):
        dpm_fast(law, 0, 1e-3)
