"""Exponential Adams-Bashforth: order, exactness, and the methods that it contains."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closed_form import M1
from fast_solvers import KEY, LAWS, end_points, mixture_errors, seeded_slope, slope, starts
from scipy.integrate import quad

from samplers import sample
from samplers.exponential.adams_bashforth import BASES, adams_bashforth, used, weights
from samplers.exponential.integrals import FORMS
from sde_lib import VP
from sde_lib.prediction import Prediction

pytestmark = pytest.mark.usefixtures("x64", "strict_ranks")
CASES = [(form, basis) for form in FORMS for basis in BASES]
LAW = VP()


# Each order in lam, each basis, and each form with several of them. A test below compares the
# weights of every form and basis with quadrature.
@pytest.mark.parametrize(
    "form, basis, order",
    [
        ("data", "lam", 2),
        ("noise", "lam", 3),
        ("data", "lam", 4),
        ("noise", "rho", 3),
        ("data", "t", 3),
    ],
)
def test_order_of_convergence_with_an_exact_history(form, basis, order):
    """The method has its order on M1 if its first outputs are exact. Order 1 is DDIM."""
    found = seeded_slope(lambda p: adams_bashforth(p, order, form, basis), order - 1, form)
    assert abs(found - order) < 0.2, found


def test_figures_of_the_mixture():
    """Orders 2 and 3 have errors like DPM-Solver++ 2M and 3M, in figures computed independently.

    The runs start without history, on VP from 1 to 0.01 in 24, 48, 96 and 192 steps.
    `test_samplers_order.py` has the figures of DDIM.
    """
    sizes = (24, 48, 96, 192)
    second, third = (mixture_errors(lambda p, k=k: adams_bashforth(p, k), sizes) for k in (2, 3))
    assert np.all(second < [1.2e-2, 2.8e-3, 7e-4, 1.8e-4])  # 2M: 8.7e-3, 2.3e-3, 6.0e-4, 1.5e-4
    assert abs(slope(sizes[2:], second[2:]) - 2.0) < 0.1
    assert np.all(third < [3.5e-3, 6.0e-4, 1.3e-4, 3.2e-5])  # 3M: 3.1e-3, then these three


@functools.cache
def runner(order, form, basis="lam", count=9):
    """Return `(x (6, 1), ts (count, 6), means, stds) -> x`, for a mixture with M1's weights."""

    @jax.jit
    def run(x, ts, means, stds):
        data = M1._replace(means=means, stds=stds)
        return sample(KEY, data.predict(LAW), adams_bashforth(LAW, order, form, basis), x, ts).x

    return run


def by_hand(x, ts, order, form):
    """Run orders 1 and 2 in NumPy.

    Order 1 is DDIM. Order 2 is DPM-Solver 2M in its "taylor" variant (Lu et al. 2022): the
    derivative from two outputs, times `phi_2`.
    """
    predict, last = M1.predict(LAW), None
    a, c = (np.asarray(v) for v in LAW.coeffs(ts))
    lam = np.log(a / c)
    for i in range(len(ts) - 1):
        h, out = lam[i + 1] - lam[i], predict(x, ts[i])
        if order == 1:
            x = a[i + 1] * out.x0 + c[i + 1] * out.eps
            continue
        e, z = (out.eps, h) if form == "noise" else (out.x0, -h)
        slope_times_h = 0.0 if last is None else (e - last) * h / (lam[i] - lam[i - 1])
        phi1, phi2 = np.expm1(z) / z, (np.expm1(z) / z - 1.0) / z
        integral = h * (phi1 * e + phi2 * slope_times_h)
        if form == "noise":
            x = a[i + 1] / a[i] * x - c[i + 1] * integral
        else:
            x = c[i + 1] / c[i] * x + a[i + 1] * integral
        last = e
    return x


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("order", [1, 2])
def test_orders_one_and_two_are_known_methods(order, form):
    x, ts = 2.0 * starts(6), np.linspace(1.0, 0.01, 9) ** 1.3
    found = runner(order, form)(x, np.repeat(ts[:, None], 6, axis=1), M1.means, M1.stds)
    np.testing.assert_allclose(found, by_hand(x, ts, order, form), rtol=1e-10, atol=1e-11)


TIMES, LATER = np.array([0.4, 0.55, 0.55, 0.9]), 0.02


@functools.cache
def all_weights():
    """Return `weights` of each of CASES, and `used`, by one program."""
    both = lambda times, t, s: (
        jnp.stack([weights(LAW, form, times, t, s, basis) for form, basis in CASES]),
        used(times),
    )
    return jax.jit(both)(TIMES, TIMES[0], LATER)


def lam_of(t):
    """Return lam of VP, `-log(exp(B) - 1) / 2`, in NumPy."""
    return -0.5 * np.log(np.expm1(0.1 * t + 9.95 * t**2))


def t_of(lam):
    """Return the root t of `9.95 t^2 + 0.1 t = B`."""
    return (-0.1 + np.sqrt(0.01 + 39.8 * np.log1p(np.exp(-2.0 * lam)))) / 19.9


@pytest.mark.parametrize("form, basis", CASES)
def test_weights_integrate_polynomials_in_their_basis(form, basis):
    """The weights integrate each power as adaptive quadrature does.

    The times are uneven, a step has 3.5 nats, and one of the four entries of the memory is empty.
    """
    t, s = TIMES[0], LATER
    w, there = (np.asarray(v) for v in all_weights())
    w = w[CASES.index((form, basis))]
    assert w[1] == 0.0 and list(there) == [True, True, False, True]
    lam_t, lam_s = lam_of(t), lam_of(s)
    h, sign = lam_s - lam_t, 1.0 if form == "noise" else -1.0
    variable = {
        "lam": lambda l: l,
        "rho": lambda l: np.exp(-l),
        "t": t_of,
    }[basis]
    nodes = np.asarray([variable(lam_of(v)) for v in TIMES])
    for power in (0, 1, 2):
        values = nodes**power - nodes[0] ** power

        def integrand(u, power=power):
            rise = variable(lam_t + h * u) ** power - nodes[0] ** power
            return np.exp(sign * h * (1 - u)) * rise

        truth = quad(integrand, 0, 1)[0]
        np.testing.assert_allclose(w @ values[1:], truth, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("form, basis", [("noise", "t"), ("data", "rho")])
def test_a_single_point_is_reached_in_one_step_or_in_any_other_number(form, basis):
    """For data at one point, one step and five steps are both exact.

    eps is then constant along a path, and x0 everywhere. Half of the examples take one step and
    then steps of length zero.
    """
    point, x = 0.3, 2.0 * starts(6)
    a, c = (np.asarray(v) for v in LAW.coeffs(np.array([1.0, 0.01])))
    truth = a[1] * point + c[1] / c[0] * (x - a[0] * point)
    one, five = np.where(np.arange(6) > 0, 0.01, 1.0), np.linspace(1.0, 0.01, 6)
    ts = np.stack([one, five] * 3, axis=1)
    run = runner(4, form, basis, 6)
    out = run(x, ts, np.full((2, 1), point), np.zeros(2))
    np.testing.assert_allclose(out, truth, rtol=1e-11, atol=1e-11)


def test_rescaled_states_agree_between_laws():
    results = end_points(lambda path: adams_bashforth(path, 3, "noise", "rho"))
    for name in LAWS:
        np.testing.assert_allclose(results[name], results["vp"], atol=1e-10, err_msg=name)


def test_resting_steps_change_nothing_and_times_may_be_one_per_example():
    """Steps of length zero change nothing, also in the memory.

    The grids of three examples with steps of length zero in several places run together. Each
    example ends as on its own grid alone, and as in a run with one time for all examples.
    """
    x = np.array([[0.5], [-1.0], [0.5]])
    ts = np.linspace(1.0, 0.01, 6)
    grids = [ts[[0, 0, 1, 2, 3, 4, 5]], 0.8 * ts[[0, 1, 2, 3, 4, 5, 5]], ts[[0, 1, 2, 3, 4, 5, 5]]]
    run = lambda x, ts: sample(KEY, M1.predict(LAW), adams_bashforth(LAW, 3), x, ts).x

    @jax.jit
    def both(x, ts, for_all):
        return run(x, ts), run(x, for_all)

    (found, _), (alone, for_all) = (
        both(x, np.stack(columns, 1), ts[[0, 1, 2, 3, 4, 5, 5]])
        for columns in (grids, [grids[2], 0.8 * grids[2], grids[2]])
    )
    np.testing.assert_allclose(found, alone, rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(np.asarray(found)[[0, 2]], np.asarray(for_all)[[0, 2]], rtol=1e-12)


def test_one_evaluation_a_step_and_shapes_kept():
    calls = []

    def predict(x, t):
        jax.debug.callback(lambda: calls.append(1))
        return Prediction(x, x, x, x)

    method = adams_bashforth(LAW, 4)
    run = jax.jit(lambda x, ts: sample(KEY, predict, method, x, ts, lambda s: s.memory.outputs))
    result = run(np.ones((2, 4, 4, 3)), np.linspace(1, 0.1, 6))
    jax.effects_barrier()
    assert int(result.nfe) == len(calls) == 5
    assert result.x.shape == (2, 4, 4, 3) and result.trace.shape == (5, 3, 2, 4, 4, 3)


@pytest.mark.parametrize(
    "kwargs", [{"order": 0}, {"order": 5}, {"form": "score"}, {"basis": "sigma"}]
)
def test_what_is_not_known_is_refused(kwargs):
    with pytest.raises(ValueError, match=next(iter(kwargs))):
        adams_bashforth(VP(), **kwargs)
