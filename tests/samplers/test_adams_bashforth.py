"""Exponential Adams-Bashforth: order, exactness, and the methods that it contains."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closed_form import M1, Empirical
from fast_solvers import KEY, LAWS, end_points, mixture_errors, seeded_slope, slope
from scipy.integrate import quad

from samplers import State, ddim, sample
from samplers.adams_bashforth import BASES, adams_bashforth, used, weights
from samplers.exponential import FORMS
from sde_lib import VP

pytestmark = pytest.mark.usefixtures("x64", "strict_ranks")
CASES = [(form, basis) for form in FORMS for basis in BASES]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("basis, order", [("lam", 2), ("lam", 3), ("lam", 4), ("rho", 3), ("t", 3)])
def test_order_of_convergence_with_an_exact_history(form, basis, order):
    """On M1, the first outputs being those of the solution. Order 1 is measured below."""
    found = seeded_slope(lambda p: adams_bashforth(p, order, form, basis), order - 1, form)
    assert abs(found - order) < 0.2, found


def test_figures_of_the_mixture():
    """Unseeded, VP 1 to 0.01, 24, 48, 96 and 192 steps. Order 1 is DDIM, whose figures were
    computed elsewhere, as were DPM-Solver++ 2M's and 3M's, which orders 2 and 3 are held to."""
    sizes = (24, 48, 96, 192)
    first = mixture_errors(lambda path: adams_bashforth(path, 1, "noise"), sizes)
    np.testing.assert_allclose(first, [6.6e-2, 3.3e-2, 1.7e-2, 8.4e-3], rtol=0.1)
    second, third = (mixture_errors(lambda p, k=k: adams_bashforth(p, k), sizes) for k in (2, 3))
    assert np.all(second < [1.2e-2, 2.8e-3, 7e-4, 1.8e-4])  # 2M: 8.7e-3, 2.3e-3, 6.0e-4, 1.5e-4
    assert abs(slope(sizes[2:], second[2:]) - 2.0) < 0.1
    assert np.all(third < [3.5e-3, 6.0e-4, 1.3e-4, 3.2e-5])  # 3M: 3.1e-3, then these three


@pytest.mark.parametrize("form", FORMS)
def test_order_one_is_ddim(form):
    law, x, ts = VP(), jnp.linspace(-2.0, 2.0, 9)[:, None], jnp.linspace(1.0, 0.01, 8)
    run = lambda sampler: sample(KEY, M1.predict(law), sampler, x, ts).x
    np.testing.assert_allclose(
        run(adams_bashforth(law, 1, form)), run(ddim(law)), rtol=1e-12, atol=1e-13
    )


@pytest.mark.parametrize("form", FORMS)
def test_order_two_is_dpm_solver_2m(form):
    """Its "taylor" variant (Lu et al. 2022), written here in NumPy: the derivative from two
    outputs, times `phi_2`."""
    law, predict, sampler = VP(), jax.jit(M1.predict(VP())), adams_bashforth(VP(), 2, form)
    x, ts = np.linspace(-2.0, 2.0, 9)[:, None], np.linspace(1.0, 0.01, 9) ** 1.3
    found = jax.jit(lambda x: sample(KEY, predict, sampler, x, jnp.asarray(ts)).x)(x)
    a, _, c = (np.asarray(v) for v in law.coeffs(jnp.asarray(ts)))
    lam, last = np.asarray(law.lam(jnp.asarray(ts))), None
    for i in range(8):
        h, out = lam[i + 1] - lam[i], predict(jnp.asarray(x), jnp.asarray(ts[i]))
        e, z = (out.eps, h) if form == "noise" else (out.x0, -h)
        e = np.asarray(e)
        slope_times_h = 0.0 if last is None else (e - last) * h / (lam[i] - lam[i - 1])
        phi1, phi2 = np.expm1(z) / z, (np.expm1(z) / z - 1.0) / z
        integral = h * (phi1 * e + phi2 * slope_times_h)
        if form == "noise":
            x = a[i + 1] / a[i] * x - c[i + 1] * integral
        else:
            x = c[i + 1] / c[i] * x + a[i + 1] * integral
        last = e
    np.testing.assert_allclose(found, x, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("form, basis", CASES)
def test_weights_integrate_polynomials_in_their_basis(form, basis):
    """Against adaptive quadrature of each power, for uneven times, a step of 3.5 nats, and one of
    the four entries empty."""
    law, t, s = VP(), 0.4, 0.02
    times = jnp.asarray([t, 0.55, 0.55, 0.9])
    w = np.asarray(weights(law, form, times, jnp.asarray(t), jnp.asarray(s), basis))
    assert w[1] == 0.0 and list(used(times)) == [True, True, False, True]
    lam_t, lam_s = (float(law.lam(jnp.asarray(v))) for v in (t, s))
    h, sign = lam_s - lam_t, 1.0 if form == "noise" else -1.0
    variable = {
        "lam": lambda l: l,
        "rho": lambda l: np.exp(-l),
        "t": lambda l: float(law.t_of_lam(jnp.asarray(l))),
    }[basis]
    nodes = np.asarray([variable(float(law.lam(v))) for v in times])
    for power in (0, 1, 2):
        values = nodes**power - nodes[0] ** power

        def integrand(u, power=power):
            rise = variable(lam_t + h * u) ** power - nodes[0] ** power
            return np.exp(sign * h * (1 - u)) * rise

        truth = quad(integrand, 0, 1)[0]
        np.testing.assert_allclose(w @ values[1:], truth, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("form, basis", [("noise", "lam"), ("noise", "t"), ("data", "rho")])
def test_a_single_point_is_reached_in_one_step_or_in_any_other_number(form, basis):
    """eps is then constant along a path, and x0 everywhere."""
    law, point = VP(), np.array([[0.3, -1.1]])
    x = jnp.asarray(np.random.default_rng(0).standard_normal((5, 2)))
    a, _, c = law.coeffs(jnp.asarray([1.0, 0.01]))
    truth = a[1] * point + c[1] / c[0] * (x - a[0] * point)
    for ts in (jnp.asarray([1.0, 0.01]), jnp.linspace(1.0, 0.01, 6)):
        sampler = adams_bashforth(law, 4, form, basis)
        out = sample(KEY, Empirical(point).predict(law), sampler, x, ts).x
        np.testing.assert_allclose(out, truth, rtol=1e-11, atol=1e-11)


def test_rescaled_states_agree_between_laws():
    results = end_points(lambda path: adams_bashforth(path, 3, "noise", "rho"))
    for name in LAWS:
        np.testing.assert_allclose(results[name], results["vp"], atol=1e-10, err_msg=name)


def test_resting_steps_change_nothing_and_times_may_be_one_per_example():
    """A time met again is no new point: the grids of three examples in one run, with steps of
    length zero in several places, each like its own grid alone."""
    law, x = VP(), jnp.asarray([[0.5], [-1.0], [0.5]])
    ts = np.linspace(1.0, 0.01, 6)
    grids = [ts[[0, 0, 1, 2, 3, 4, 5]], 0.8 * ts[[0, 1, 2, 3, 4, 5, 5]], ts[[0, 1, 2, 3, 4, 5, 5]]]
    run = jax.jit(lambda x, ts: sample(KEY, M1.predict(law), adams_bashforth(law, 3), x, ts).x)
    found = run(x, jnp.asarray(np.stack(grids, 1)))
    alone = run(x, jnp.asarray(np.stack([ts, 0.8 * ts, ts], 1)))
    np.testing.assert_allclose(found, alone, rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(found[:1], run(x[:1], jnp.asarray(ts)), rtol=1e-12)


def test_one_evaluation_a_step_and_shapes_kept():
    law, calls = VP(), []

    def predict(x, t):
        jax.debug.callback(lambda: calls.append(1))
        return M1.predict(law)(x, t)

    result = sample(
        KEY, predict, adams_bashforth(law, 4), jnp.ones((3, 1)), jnp.linspace(1, 0.1, 6)
    )
    jax.effects_barrier()
    assert int(result.nfe) == len(calls) == 5
    sampler, x, t = adams_bashforth(law, 3), jnp.ones((2, 4, 4, 3)), jnp.asarray(1.0)
    state = sampler.init(x, t)
    assert isinstance(state, State) and state.memory.outputs.shape == (2, 2, 4, 4, 3)


@pytest.mark.parametrize(
    "kwargs", [{"order": 0}, {"order": 5}, {"form": "score"}, {"basis": "sigma"}]
)
def test_what_is_not_known_is_refused(kwargs):
    with pytest.raises(ValueError, match=next(iter(kwargs))):
        adams_bashforth(VP(), **kwargs)
