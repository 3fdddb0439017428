"""Levenberg-Marquardt-Langevin: its rule, its runs, and a sweep of its strength on the digits. The
rule is compared with linear algebra, and runs with a recursion in NumPy and the exact flow.
"""

import functools
import importlib
import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closed_form import Empirical, Gaussian, Mixture
from fast_solvers import KEY
from rk4 import errors, even_in_lam, rk4_step, runge_kutta
from sklearn.datasets import load_digits
from sklearn.mixture import GaussianMixture

from samplers import Span, ddim, dpm_multistep, dpm_solver, heun, sample
from samplers.around.lml import lml
from sde_lib import VE, VP, Flow

rules = importlib.import_module("samplers.around.lml")  # the package's `lml` is the function

pytestmark = pytest.mark.usefixtures("x64", "strict_ranks")
BLOBS = Mixture(np.array([0.3, 0.7]), np.array([[-1.2, 0.5], [0.9, -0.4]]), np.array([0.35, 0.5]))


# Compiled, so that operations are not compiled one by one.
damped, literal, solve_rank_one, turned = map(
    jax.jit, (rules.damped, rules.literal, rules.solve_rank_one, rules.turned)
)


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def cosine(u, v):
    return np.sum(u * v, -1) / np.linalg.norm(u, axis=-1) / np.linalg.norm(v, axis=-1)


def test_rank_one_inverse():
    """The rank-one solve equals a dense solve, with a matrix for each example."""
    u, v, damping = normal(5, 7), normal(5, 7, seed=1), 0.03
    dense = np.einsum("bi,bj->bij", u, u) + damping * np.eye(7)
    expected = np.linalg.solve(dense, v[:, :, None])[:, :, 0]
    np.testing.assert_allclose(solve_rank_one(u, v, damping), expected, rtol=1e-10)


def test_newton_step_lands_on_the_mean():
    """With the exact Hessian of -log p, one step of length 1 without noise leads to the mean.

    This holds for a precision matrix of rank-one form, and with a dense solve for any Gaussian.
    """
    damping, u, mean = 0.4, normal(1, 6), normal(6, seed=2)
    precision = damping * np.eye(6) + u.T @ u
    x = 3.0 * normal(4, 6, seed=3)
    law = VP()
    data = Gaussian(mean, np.linalg.inv(precision))
    # At t = 1e-14 the law of x_t is that of the data.
    score_of = data.score(law)
    ours = x + solve_rank_one(np.tile(u, (4, 1)), score_of(x, 1e-14), damping)
    np.testing.assert_allclose(ours, np.tile(mean, (4, 1)), atol=1e-10)
    t = 0.3
    hessian = jax.jit(jax.hessian(lambda y: -data.logp(law, y[None], t)[0]))(x[0])
    step = np.linalg.solve(hessian, score_of(x, t)[0])
    np.testing.assert_allclose(x[0] + step, data.moments(law, t)[0], atol=1e-10)


@pytest.mark.parametrize("kappa", [0.0, 1e-7, 1e-5, 1e-3, 0.3, 1.0])
def test_closed_form_is_the_published_rule(kappa):
    """The closed form equals the published rule for every kappa. In float32 it is right too, while
    the rule as written loses all its digits."""
    v, p = normal(6, 500), normal(6, 500, seed=1)
    p = 0.9 * v + 0.3 * p
    expected = literal(v, p, kappa, 1e-3)
    np.testing.assert_allclose(damped(v, p, kappa, 1e-3), expected, atol=1e-9)
    single = damped(np.float32(v), np.float32(p), kappa, 1e-3)
    assert single.dtype == np.float32
    np.testing.assert_allclose(single, expected, atol=2e-5)


def test_small_kappa_turns_away_from_the_direction_before():
    """For small kappa the result is `v + eta (v - p)_perp` with the length of v, where
    `eta = kappa |v|^2 / damping`."""
    v, p, damping = normal(8, 3072), normal(8, 3072, seed=1), 1e-3
    p = v + 0.2 * p
    for eta in (0.01, 0.1, 0.3):
        kappa = eta * damping / np.sum(v**2, 1, keepdims=True)
        apart = v - p
        apart = apart - v * np.sum(apart * v, 1, keepdims=True) / np.sum(v**2, 1, keepdims=True)
        rule = literal(v, p, kappa, damping)
        assert np.all(1.0 - cosine(rule, v + eta * apart) < 1e-8)
        ours = turned(v, p, eta)
        assert np.all(1.0 - cosine(ours, v + eta * apart) < 1e-14)
        for out in (rule, ours):
            lengths = np.linalg.norm(out, axis=1)
            np.testing.assert_allclose(lengths, np.linalg.norm(v, axis=1), rtol=1e-9)


def test_the_literal_rule_in_float32_is_rounding():
    """In float32 the error of the rule as written is larger than the change that it should make.

    At the kappa of eta = 0.1, the contribution of p is below the last digit of v. With kappa = 0
    the rule gives v.
    """
    rules_at = jax.jit(lambda v, p, kappa: (damped(v, p, kappa, 1e-3), literal(v, p, kappa, 1e-3)))
    for dims in (3072, 16384):
        v, p = normal(4, dims), normal(4, dims, seed=1)
        p = v + 0.2 * p
        np.testing.assert_allclose(rules_at(v, p, 0.0)[1], v, atol=1e-6)
        kappa = 0.1 * 1e-3 / dims
        exact = np.asarray(rules_at(v, p, kappa)[1])
        singles = map(np.float64, rules_at(np.float32(v), np.float32(p), kappa))
        size, safe, lost = (np.linalg.norm(d) for d in (exact - v, *(x - exact for x in singles)))
        assert safe < 1e-4 * size and lost > 0.5 * size, (size, safe, lost)


def test_examples_and_zero_vectors():
    v, p = normal(3, 2, 2, 1), normal(3, 2, 2, 1, seed=1)
    eta = np.array([0.1, 0.2, 0.3])
    together = np.asarray(turned(v, p, eta))
    for i, own in enumerate(eta):
        np.testing.assert_allclose(together[i], np.asarray(turned(v, p, np.full(3, own)))[i])
    still = turned(np.zeros_like(v), p, eta)
    np.testing.assert_array_equal(still, 0.0)
    # Without a previous direction, or with strength 0, nothing is turned.
    np.testing.assert_array_equal(turned(v, np.zeros_like(p), eta), v)
    np.testing.assert_array_equal(turned(v, p, np.zeros(3)), v)


def rule_in_numpy(v, p, kappa, damping):
    """Return the published rule, computed example by example."""
    out = []
    for i in range(len(v)):
        u = v[i] if p is None else kappa * p[i] + (1 - kappa) * v[i]
        w = v[i] - u * (u @ v[i]) / (damping + u @ u)
        out.append(w * np.sqrt((v[i] @ v[i]) / (w @ w)))
    return np.stack(out)


def recursion(law, data, x, ts, placement, kappa, damping, freeze):
    """Run DDIM with the rule, in NumPy."""
    predict = data.predict(law)
    (a, c), before = map(np.asarray, law.coeffs(ts)), None
    for i, (t, s) in enumerate(itertools.pairwise(ts)):
        x0, eps, _, velocity = predict(x, t)
        flat, shrunk = a[i + 1] / a[i], c[i + 1] / c[i]
        v = {
            "direction": eps,
            "noise": (c[i + 1] - flat * c[i]) * eps,
            "data": (a[i + 1] - shrunk * a[i]) * x0,
            "velocity": velocity,
        }[placement]
        new = rule_in_numpy(v, before, kappa, damping) if t < law.t1 * (1 - freeze) else v
        x = {
            "direction": a[i + 1] * x0 + c[i + 1] * new,
            "noise": flat * x + new,
            "data": shrunk * x + new,
            "velocity": x + (s - t) * new,
        }[placement]
        before = v
    return x


@pytest.mark.parametrize(
    ("placement", "freeze"), [("direction", 0.5), ("noise", 0.0), ("data", 0.3), ("velocity", 0.0)]
)
def test_runs_are_the_published_recursion(placement, freeze):
    """Runs equal the recursion with the closed form's kappa; every run starts without memory."""
    law = Flow(t1=0.95) if placement == "velocity" else VP()
    ts = even_in_lam(law, (6,), 0.02)[:, 0]
    x, kappa, damping = normal(5, 2), 0.02, 0.3
    rule = partial(damped, kappa=kappa, damping=damping)
    method = lml(law, ddim(law), placement=placement, freeze=freeze, turn=rule)
    run = jax.jit(lambda x, ts: sample(KEY, BLOBS.predict(law), method, x, ts).x)
    first, again = run(x, ts), run(x, ts)
    np.testing.assert_array_equal(first, again)
    expected = recursion(law, BLOBS, x, ts, placement, kappa, damping, freeze)
    np.testing.assert_allclose(first, expected, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize(
    ("base", "placement"),
    [(ddim, "direction"), (dpm_multistep, "noise"), (dpm_solver, "data")],
)
def test_nothing_turned_is_the_base(base, placement):
    """With eta = 0 the run equals that of the base, in float32 too. Any eta leaves the first step
    unchanged. The number of evaluations is the base's."""
    law = VP()
    ts, x = even_in_lam(law, (4,), 0.02)[:, 0], np.float32(normal(5, 2))
    with jax.enable_x64(False):

        @jax.jit
        def runs(x, ts):
            run = lambda m, x: sample(KEY, BLOBS.predict(law), m, x, ts, lambda state: state.x)
            # Half of the batch is not turned (eta = 0), the other half is.
            rule = partial(turned, eta=np.float32([0.0, 0.7]).repeat(5))
            method = lml(law, base(law), placement=placement, turn=rule)
            return run(base(law), x), run(method, jnp.tile(x, (2, 1)))

        plain, ours = jax.device_get(runs(x, np.float32(ts)))
    none, much = np.split(ours.trace, 2, axis=1)
    np.testing.assert_allclose(none, plain.trace, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(much[0], plain.trace[0], rtol=1e-6, atol=1e-6)
    assert np.max(np.abs(much[-1] - plain.x)) > 1e-2
    assert plain.nfe == ours.nfe and ours.x.dtype == np.float32


@pytest.mark.parametrize(
    ("placement", "law"),
    [("direction", VP()), ("noise", VE()), ("data", VP()), ("velocity", Flow())],
)
def test_one_data_point_stays_exact(placement, law):
    """For one data point eps and x0 are constant along a path, so turning changes nothing."""
    point, z = normal(1, 4), normal(3, 4, seed=1)
    ts = even_in_lam(law, (7,), 0.02)[:, 0]
    a, c = (np.asarray(v) for v in law.coeffs(ts))
    method = lml(law, ddim(law), 0.9, placement)
    run = jax.jit(lambda x, ts: sample(KEY, Empirical(point).predict(law), method, x, ts).x)
    out = run(a[0] * point + c[0] * z, ts)
    np.testing.assert_allclose(out, a[-1] * point + c[-1] * z, atol=1e-7)


@pytest.mark.parametrize("placement", ["direction", "noise"])
def test_a_step_of_length_zero_is_none(placement):
    """Steps of length zero anywhere in a grid change neither x nor the stored direction."""
    law, method = VP(), lml(VP(), ddim(VP()), 0.5, placement)
    ts, x = even_in_lam(law, (4,), 0.02)[:, 0], normal(3, 2)
    run = jax.jit(lambda x, ts: sample(KEY, BLOBS.predict(law), method, x, ts).x)
    grids = [np.repeat(ts, counts) for counts in ([1, 1, 2, 1, 3], [1, 1, 1, 1, 4])]
    doubled, rested = np.split(
        np.asarray(run(np.tile(x, (2, 1)), np.stack(grids, axis=1).repeat(3, axis=1))), 2
    )
    np.testing.assert_allclose(doubled, rested, rtol=1e-10)


def test_direction_leaves_the_noise_of_ddim_alone():
    """Placement "direction" changes only `sqrt(c_s^2 - std^2) eps`; std is that of DDIM's noise."""
    law, times = VP(), np.array([0.6, 0.4])
    x, before = normal(3, 2), normal(3, 2, seed=1)

    @jax.jit
    def steps(x, before, times):
        t, s = times
        method, plain = lml(law, ddim(law, 1.0), 0.4, "direction"), ddim(law, 1.0)
        state = method.init(x, t)
        state = state._replace(memory=state.memory._replace(before=before))
        predict = BLOBS.predict(law)
        moved = method.step(KEY, predict, state, Span(t, s))
        return moved.x, plain.step(KEY, predict, plain.init(x, t), Span(t, s)).x

    moved, bare = (np.asarray(v) for v in steps(x, before, times))
    eps = BLOBS.predict(law)(x, times[0]).eps
    (a_t, a_s), (c_t, c_s) = (np.asarray(v) for v in law.coeffs(times))
    std = c_s / c_t * np.sqrt(c_t**2 - (a_t / a_s) ** 2 * c_s**2)
    change = np.sqrt(c_s**2 - std**2) * (np.asarray(turned(eps, before, 0.4)) - eps)
    assert np.max(np.abs(change)) > 0.02
    np.testing.assert_allclose(moved - bare, change, atol=1e-12)


@pytest.mark.parametrize(("base", "placement"), [(ddim, "noise"), (dpm_multistep, "data")])
def test_the_limit_of_turned_increments_is_the_flow(base, placement):
    """Runs with turned increments converge to the flow with order 1, for any base.

    Increments of neighbouring steps agree in the limit.
    """
    truth = flows()[2]
    order, error = measured_order(lambda law: lml(law, base(law), ETA, placement), truth)
    assert np.all((order > 0.85) & (order < 1.3)), (error, order)


def test_the_limit_of_turned_directions_is_another_flow():
    """Runs with turned directions converge to another flow.

    eps is turned by O(h) in a term that is not of size h, so the sum over all steps does not
    vanish. With `y = x / a` and `xi = c / a` the limit is `dy = eps dxi + eta xi (d eps)_perp`.
    """
    _, _, truth, changed = flows()
    method = lambda law: lml(law, ddim(law), ETA, "direction")
    order, error = measured_order(method, truth)
    assert np.all(np.abs(order) < 0.2) and error[-1] > 0.05, (error, order)
    order, error = measured_order(method, changed)
    assert np.all((order > 0.85) & (order < 1.3)), (error, order)


ETA = 0.3


@functools.cache
def flows():
    """Return a law, 50 starts, and their ends by the flow and by the limit of turned directions."""
    law, start = VP(), normal(50, 2)
    truth = runge_kutta(law, BLOBS, start, 0.01, 400)
    return law, start, truth, limit_of_directions(law, start)


def measured_order(method, truth, sizes=(64, 128, 256)):
    law, start = flows()[:2]
    error = errors(law, BLOBS, method, sizes, 0.01, start, truth)
    return np.log2(error[:-1] / error[1:]), error


def limit_of_directions(law, x, steps=150, d=1e-5):
    """Solve `y' = eps xi' + eta xi P (d eps + J y')` for y' and integrate by RK4 in lam. P projects
    onto the complement of eps. Derivatives of eps are central differences."""
    ends = np.array([1.0, 0.01])
    a, lam = np.asarray(law.coeffs(ends).a), np.asarray(law.lam(ends))

    def eps_of(y, lam):
        return BLOBS._posterior(y, np.ones((1, 1)), np.full((1, 1), np.exp(-lam)))[1]

    def rate(lam, y):
        eps, xi, unit = eps_of(y, lam), np.exp(-lam), np.eye(2)
        P = unit[None] - eps[:, :, None] * eps[:, None] / np.sum(eps**2, axis=1)[:, None, None]
        along = [eps_of(y + d * e[None], lam) - eps_of(y - d * e[None], lam) for e in unit]
        J = np.stack(along, axis=2) / (2.0 * d)
        rise = (eps_of(y, lam + d) - eps_of(y, lam - d)) / (2.0 * d)
        right = ETA * xi * P @ rise[:, :, None] - xi * eps[:, :, None]
        return np.linalg.solve(unit[None] - ETA * xi * P @ J, right)[:, :, 0]

    y, h = x / a[0], (lam[1] - lam[0]) / steps
    for i in range(steps):
        y = rk4_step(rate, lam[0] + i * h, h, y)
    return a[1] * y


# RMS distance to the end of the flow from 256 starts, by N, placement and eta. The mixture of these
# figures was fitted to the same digits from another initialisation and with other draws, which
# changes a figure by a few per cent.
ETAS = (0.0, 0.01, 0.1, 0.3, 0.5, 1.0)
SWEEP = {
    (10, "direction"): (0.1096, 0.1102, 0.1167, 0.1345, 0.1543, 0.2144),
    (10, "noise"): (0.1096, 0.1089, 0.1018, 0.0902, 0.0813, 0.0747),
    (20, "direction"): (0.0672, 0.0679, 0.0764, 0.1056, 0.1421, 0.2479),
    (20, "noise"): (0.0672, 0.0669, 0.0624, 0.0570, 0.0505, 0.0559),
}


@functools.cache
def digits():
    """Return 20 spherical components fitted to the digits, 256 starts, and the flow's ends."""
    law = VP()
    fit = GaussianMixture(20, covariance_type="spherical", random_state=0)
    fit.fit(load_digits().data / 8.0 - 1.0)
    net = Mixture(fit.weights_, fit.means_, np.sqrt(fit.covariances_))
    start = normal(256, 64)
    return net, start, runge_kutta(law, net, start, 0.01, 60)


# Runs for longer than it compiles.
@pytest.mark.optimised
@pytest.mark.parametrize("placement", ["direction", "noise"])
def test_sweep_of_the_strength_on_digits(placement):
    """Turning the direction only adds error. Turning the whole increment is an extrapolation, and
    removes a fourth of the error at eta = 1/2."""
    law = VP()
    net, start, truth = digits()
    sizes, of_each = (10, 20), len(ETAS) * len(start)
    ts = even_in_lam(law, sizes, 0.01).repeat(of_each, axis=1)
    eta = np.tile(np.repeat(ETAS, len(start)), 2)
    method = lml(law, ddim(law), placement=placement, turn=partial(turned, eta=eta))
    run = jax.jit(lambda x, ts: sample(KEY, net.predict(law), method, x, ts).x)
    ends = np.asarray(run(np.tile(start, (2 * len(ETAS), 1)), ts))
    ends = ends.reshape(2, len(ETAS), *start.shape)
    error = np.sqrt(np.mean((ends - truth[None, None]) ** 2, axis=(2, 3))).T
    for i, n in enumerate(sizes):
        np.testing.assert_allclose(error[:, i], SWEEP[n, placement], rtol=0.09)
        gain = error[:, i] / error[0, i]
        if placement == "direction":
            assert np.all(np.diff(gain) > 0.0)
        else:
            assert np.all(np.diff(gain[:5]) < 0.0) and gain[4] < 0.8


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"placement": "eps"}, "placement is 'eps'; it must be one of direction"),
        ({"eta": -0.1}, "eta is -0.1; the strength of the turn must not be negative"),
        ({"eta": float("nan")}, "eta is nan"),
        ({"freeze": 1.0}, r"freeze is 1.0; .* \[0, 1\)"),
        ({"placement": "direction"}, "makes 2 evaluations a step; take a solver of one"),
    ],
)
def test_refusals(change, message):
    with pytest.raises(ValueError, match=message):
        lml(VP(), heun(VP()), **change)
