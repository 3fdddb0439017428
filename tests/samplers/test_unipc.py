"""UniPC: order p + 1, exactness, and its steps against the authors' equations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closed_form import M1, Empirical
from fast_solvers import KEY, LAWS, mixture_errors, seeded_slope
from law_as_data import for_each

from samplers import sample
from samplers.exponential.integrals import FORMS
from samplers.exponential.unipc import VARIANTS, unipc
from samplers.grids import tangent
from sde_lib import VP

pytestmark = pytest.mark.usefixtures("x64", "strict_ranks")
CASES = [(form, variant) for form in FORMS for variant in VARIANTS]


@pytest.mark.parametrize(
    "form, variant, order",
    [("noise", "b1", 1), ("data", "b2", 2), ("noise", "b1", 3), ("data", "b2", 3)],
)
def test_order_of_convergence_with_an_exact_history(form, variant, order):
    """On M1 the corrector raises the predictor's order p by one.

    The slope for p = 3 is 3.75 here, and rises with the number of steps. p = 4 is left out, because
    its errors are near rounding. Not all combinations are here; a test below compares all of them
    with the published steps.
    """
    found = seeded_slope(lambda path: unipc(path, order, form, variant), order, form)
    assert abs(found - (order + 1)) < 0.3, found


@pytest.mark.parametrize("form, figures", [("noise", [1.1e-2, 3.2e-3]), ("data", [8.7e-3, 2.3e-3])])
def test_beats_dpm_solver_2m_at_equal_evaluations(form, figures):
    """From a start without history, errors on M1 with 24 and 48 steps are below those of 2M.

    The figures of 2M were computed independently.
    """
    found = mixture_errors(lambda path: unipc(path, 2, form), (24, 48))
    assert np.all(found < np.asarray(figures)), found


def published(law, predict, x, ts, order, form, variant):
    """Run the multistep loop of Zhao et al. 2023 (algorithms 5 to 8) in NumPy.

    It solves linear systems `R rho = b` with `b_k = h phi_{k+1}(h) k! / B(h)`; rho is 1/2 where
    there is one unknown.
    """
    (a, c), lam = (np.asarray(v) for v in law.coeffs(ts)), np.asarray(law.lam(ts))

    def output(x, i):
        out = predict(x, ts[i])
        return out.eps if form == "noise" else out.x0

    def update(x, i, outs, r, order, half):
        """Step from x at i to i + 1; `outs[0]` is the output at i, the others at lam_i + r h."""
        h = lam[i + 1] - lam[i]
        hh = h if form == "noise" else -h
        B = hh if variant == "b1" else np.expm1(hh)
        phi, b = np.expm1(hh) / hh, []
        for k in range(1, order + 1):
            phi = (phi - 1.0 / np.prod(range(1, k + 1))) / hh
            b.append(hh * phi * np.prod(range(1, k + 1)) / B)
        R = np.asarray([[rj**k for rj in r] for k in range(order)])
        rho = [0.5] if half else np.linalg.solve(R, b) if order else []
        D = sum(g * (out - outs[0]) / rj for g, out, rj in zip(rho, outs[1:], r))
        if form == "noise":
            return a[i + 1] / a[i] * x - c[i + 1] * (np.expm1(h) * outs[0] + B * D)
        return c[i + 1] / c[i] * x - a[i + 1] * (np.expm1(-h) * outs[0] + B * D)

    m = [output(x, 0)]
    for i in range(len(ts) - 1):
        p, h = min(order, i + 1), lam[i + 1] - lam[i]
        back = [(lam[i - k] - lam[i]) / h for k in range(1, p)]
        outs = [m[i]] + [m[i - k] for k in range(1, p)]
        guess = update(x, i, outs, back, p - 1, p == 2)
        if i == len(ts) - 2:
            return guess
        m.append(output(guess, i + 1))
        x = update(x, i, [*outs, m[i + 1]], [*back, 1.0], p, p == 1)
    return x


@pytest.mark.parametrize("form, variant", CASES)
def test_steps_are_the_published_ones(form, variant):
    """Seven steps on uneven times equal the published ones, for orders 1 to 3.

    The last step has no corrector.
    """
    law, predict = VP(), M1.predict(VP())
    x, ts = np.linspace(-2.0, 2.0, 9)[:, None], np.linspace(1.0, 0.05, 8) ** 1.3
    # Beyond order 2 the variants differ only in the first two steps.
    orders = (1, 2, 3) if variant == "b2" else (1, 2)

    @jax.jit
    def run(x, ts):
        return [sample(KEY, predict, unipc(law, p, form, variant), x, ts).x for p in orders]

    for order, found in zip(orders, run(x, ts)):
        truth = published(law, predict, x, ts, order, form, variant)
        np.testing.assert_allclose(found, truth, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("form, variant", [("noise", "b1"), ("data", "b2")])
def test_a_single_point_is_reached_in_one_step_or_in_any_other_number(form, variant):
    law, point = VP(), np.array([[0.3, -1.1]])
    x = np.random.default_rng(0).standard_normal((5, 2))
    (a_t, a_s), (c_t, c_s) = (np.asarray(v) for v in law.coeffs(np.array([1.0, 0.01])))
    truth = a_s * point + c_s / c_t * (x - a_t * point)
    sampler, predict = unipc(law, 3, form, variant), Empirical(point).predict(law)
    # One grid has one step and then steps of length zero, the other has five steps.
    grids = np.array([[1.0] + [0.01] * 5, np.linspace(1.0, 0.01, 6)])
    run = jax.jit(jax.vmap(lambda ts: sample(KEY, predict, sampler, x, ts).x))
    for out in run(grids):
        np.testing.assert_allclose(out, truth, rtol=1e-11, atol=1e-11)


def test_rescaled_states_agree_between_laws():
    """`x / a` at lam = 3, from lam = -3, is the same for every law."""
    y = np.exp(3.0) * np.random.default_rng(0).standard_normal((50, 1))

    def run(law, y):
        ts = law.t_of_lam(jnp.linspace(-3.0, 3.0, 21))
        a = law.coeffs(ts).a
        return sample(KEY, M1.predict(law), unipc(law, 3), a[0] * y, ts).x / a[-1]

    run = for_each(LAWS, run)
    results = {name: np.asarray(run(name, y)) for name in LAWS}
    for name in LAWS:
        np.testing.assert_allclose(results[name], results["vp"], atol=1e-10, err_msg=name)


def test_rests_at_the_ends_change_nothing_and_times_may_be_one_per_example():
    """The grids of three examples run together, and each gives the same as its grid alone."""
    law, x = VP(), np.array([[0.5], [-1.0], [0.5]])
    ts = np.linspace(1.0, 0.01, 6)
    grids = [ts[[0, 0, 1, 2, 3, 4, 5]], 0.8 * ts[[0, 0, 1, 2, 3, 4, 5]], ts[[0, 1, 2, 3, 4, 5, 5]]]
    run = jax.jit(lambda x, ts: sample(KEY, M1.predict(law), unipc(law, 2), x, ts).x)
    found = run(x, np.stack(grids, 1))
    alone = run(x, np.stack([ts, 0.8 * ts, ts], 1))
    np.testing.assert_allclose(found, alone, rtol=1e-12, atol=1e-13)


def test_one_evaluation_a_step():
    law, calls = VP(), []

    def predict(x, t):
        jax.debug.callback(lambda: calls.append(1))
        return M1.predict(law)(x, t)

    run = jax.jit(lambda x, ts: sample(KEY, predict, unipc(law, 3), x, ts).nfe)
    nfe = jax.block_until_ready(run(np.ones((3, 1)), np.linspace(1.0, 0.1, 6)))
    jax.effects_barrier()
    assert int(nfe) == len(calls) == 5


def test_the_tangent_grid_is_even_in_its_angle():
    """The grid is even in its angle for every law; rho = sigma_mid = 1 gives the cosine grid."""
    grid = jax.jit(tangent, static_argnums=1)
    for law in LAWS.values():
        ts = grid(law, 10, 2e-3)
        a, c = (np.asarray(v) for v in law.coeffs(ts))
        angle = np.arctan((c / a / 0.35) ** (1 / 1.75))
        np.testing.assert_allclose(np.diff(angle), np.diff(angle)[0], rtol=1e-6)
    ts = np.asarray(grid(LAWS["flow"], 10, 2e-3, 1.0, 1.0))
    angle = np.arctan2(ts, 1 - ts)
    np.testing.assert_allclose(angle, np.linspace(angle[0], angle[-1], 11), rtol=1e-9)


@pytest.mark.parametrize("kwargs", [{"order": 0}, {"order": 5}, {"form": "v"}, {"variant": "b3"}])
def test_what_is_not_known_is_refused(kwargs):
    with pytest.raises(ValueError, match=next(iter(kwargs))):
        unipc(VP(), **kwargs)
