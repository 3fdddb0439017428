"""Adams-Bashforth on the velocity: against NumPy, its order, and its limits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closed_form import M1, Gaussian
from fast_solvers import (
    KEY,
    LAW,
    LAWS,
    SIZES,
    even_lams,
    exact_first_steps,
    mixture_errors,
    rms,
    slope,
    solution,
)
from law_as_data import for_each

from samplers import adams_bashforth, sample
from samplers.base import State
from samplers.exponential.adams_bashforth import History
from samplers.exponential.velocity_ab import turn, velocity_ab
from sde_lib import EDM, VP

pytestmark = pytest.mark.usefixtures("x64", "strict_ranks")


def by_hand(law, x, ts, order, sigma_data):
    """Run the method in NumPy: polynomials fitted and integrated over angles."""
    a, c = (np.asarray(v) for v in law.coeffs(ts))
    phi, r = np.arctan(c / (sigma_data * a)), np.hypot(sigma_data * a, c)
    predict, y, values = M1.predict(law), x / r[0], []
    for i in range(len(ts) - 1):
        out = predict(r[i] * y, ts[i])
        values.append(np.cos(phi[i]) * out.eps - np.sin(phi[i]) / sigma_data * out.x0)
        k = min(order, i + 1)
        nodes = slice(i + 1 - k, i + 1)
        fit = np.polyfit(phi[nodes], np.stack(values[nodes])[:, :, 0], k - 1)
        area = [
            np.polyval(np.polyint(p), phi[i + 1]) - np.polyval(np.polyint(p), phi[i]) for p in fit.T
        ]
        y = y + np.asarray(area)[:, None]
    return r[-1] * y


@pytest.mark.parametrize("name, order, sigma_data", [("vp", 4, 1.0), ("subvp", 3, 0.5)])
def test_uneven_steps_by_hand(name, order, sigma_data):
    x, ts = np.linspace(-2.0, 2.0, 5)[:, None], np.linspace(1.0, 0.1, 9) ** 1.5
    sampler = velocity_ab(LAWS[name], order, sigma_data)
    run = jax.jit(lambda x: sample(KEY, M1.predict(LAWS[name]), sampler, x, ts).x)
    truth = by_hand(LAWS[name], x, ts, order, sigma_data)
    np.testing.assert_allclose(run(x), truth, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("order", [2, 3, 4])
def test_order_of_convergence_with_an_exact_history(order):
    """The method has its order on M1 if its first velocities are exact."""
    times, xs = exact_first_steps()
    a, c = (v[:, :, None, None] for v in LAW.coeffs(times))
    exact = jax.vmap(jax.vmap(M1.predict(LAW)))(xs, times)
    v = (a * exact.eps - c * exact.x0) / jnp.sqrt(a**2 + c**2)
    sampler, k, ts = velocity_ab(LAW, order, 1.0), order - 1, LAW.t_of_lam(even_lams(SIZES).T)

    def run(x, ts, before):
        seeded = sampler._replace(init=lambda x, t: State(x, before))
        return sample(KEY, M1.predict(LAW), seeded, x, ts).x

    before = History(times[:, :k][:, ::-1], v[:, :k][:, ::-1])
    x = jax.jit(jax.vmap(run))(xs[:, k], ts[:, k:], before)
    found = slope(SIZES, rms(x, solution()))
    assert abs(found - order) < 0.2, found


def test_order_one_is_of_order_one():
    sizes = (96, 192, 384)
    found = mixture_errors(lambda path: velocity_ab(path, 1, 1.0), sizes)
    assert abs(slope(sizes, found) - 1.0) < 0.1


@pytest.mark.parametrize("order", [1, 3])
def test_for_large_data_it_is_deis_in_rho(order):
    """For large sigma_data it is DEIS in rho: `phi = rho / sigma_d` and `v = eps` in the limit."""
    law, x, ts = VP(), np.linspace(-2.0, 2.0, 9)[:, None], np.linspace(1.0, 0.01, 12)
    methods = velocity_ab(law, order, 1e7), adams_bashforth(law, order, "noise", "rho")
    run = jax.jit(lambda x, ts: [sample(KEY, M1.predict(law), m, x, ts).x for m in methods])
    found, deis = run(x, ts)
    np.testing.assert_allclose(found, deis, rtol=1e-7, atol=1e-8)


def test_gaussian_data_of_that_size_take_one_step():
    """For Gaussian data of std sigma_data one step is exact, because v is zero along the flow."""
    data, z = Gaussian.scalar(0.0, 0.6, 2), np.random.default_rng(0).standard_normal((5, 2))

    def run(law, x):
        ts = law.t_of_lam(jnp.asarray([-3.0, 4.0]))
        return sample(KEY, data.predict(law), velocity_ab(law, 2, 0.6), x, ts).x

    run = for_each(LAWS, run)
    for name, law in LAWS.items():
        x, ts = float(law.prior_std()) * z, np.asarray(law.t_of_lam(np.array([-3.0, 4.0])))
        np.testing.assert_allclose(run(name, x), data.flow_map(law, x, ts[0], ts[1]), rtol=1e-11)


def test_rescaled_states_agree_between_laws():
    """`x / a` at lam = 3, from lam = -3, is the same for every law."""
    y = np.exp(3.0) * np.random.default_rng(0).standard_normal((50, 1))

    def run(law, y):
        ts = law.t_of_lam(jnp.linspace(-3.0, 3.0, 21))
        a = law.coeffs(ts).a
        return sample(KEY, M1.predict(law), velocity_ab(law), a[0] * y, ts).x / a[-1]

    run = for_each(LAWS, run)
    results = {name: np.asarray(run(name, y)) for name in LAWS}
    for name in LAWS:
        np.testing.assert_allclose(results[name], results["vp"], atol=1e-10, err_msg=name)


def test_resting_steps_change_nothing_and_times_may_be_one_per_example():
    law, x = VP(), np.array([[0.5], [-1.0], [0.5]])
    ts = np.linspace(1.0, 0.01, 6)
    grids = [ts[[0, 0, 1, 2, 3, 4, 5]], 0.8 * ts[[0, 1, 2, 3, 4, 5, 5]], ts[[0, 1, 2, 3, 4, 5, 5]]]
    run = jax.jit(lambda x, ts: sample(KEY, M1.predict(law), velocity_ab(law), x, ts))
    found = run(x, np.stack(grids, 1))
    one_grid = np.pad(ts, (0, 1), "edge")
    alone = run(x, np.stack([one_grid, 0.8 * one_grid, one_grid], 1))
    close = {"rtol": 1e-12, "atol": 1e-13, "equal_nan": False}
    np.testing.assert_allclose(found.x, alone.x, **close)
    np.testing.assert_allclose(np.asarray(found.x)[:1], run(x[:1], ts).x, **close)
    assert found.nfe == 6 and velocity_ab(law).nfe == 1


def test_single_precision_keeps_the_angles_at_large_noise():
    """In float32 the angle between sigma = 80 and 79 is right to rounding.

    The two angles themselves agree in their first three digits.
    """
    t, s = np.float32(80.0), np.float32(79.0)
    found = turn(EDM(), 1.0, jnp.asarray(t), jnp.asarray(s))
    truth = np.arctan(np.float64(s)) - np.arctan(np.float64(t))
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, truth, rtol=1e-6)


@pytest.mark.parametrize(
    "kwargs, words",
    [
        ({"order": 5}, "order is 5; it must lie between 1 and 4"),
        ({"sigma_data": 0.0}, "sigma_data is 0.0"),
        ({"sigma_data": float("nan")}, "sigma_data is nan"),
    ],
)
def test_refusals(kwargs, words):
    with pytest.raises(ValueError, match=words):
        velocity_ab(VP(), **kwargs)
