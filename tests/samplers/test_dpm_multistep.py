"""DPM-Solver multistep: published figures, an independent NumPy version, and the SDE's moments."""

import functools
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closed_form import M1, Gaussian
from fast_solvers import KEY, LAWS, side_by_side, starts
from laws_by_example import LawByExample
from recursion import MEAN, PRIOR_STD, STD, Level, recursion, step_posterior
from rk4 import even_in_lam, runge_kutta

from samplers import Span, State, sample
from samplers.exponential.dpm_multistep import dpm_multistep
from sde_lib import VP

pytestmark = pytest.mark.usefixtures("x64", "strict_ranks")
LAW, SIZES = VP(), (24, 48, 96, 192)
CASES = [(2, "noise"), (2, "data"), (3, "noise"), (3, "data")]

# RMS errors for 24, 48, 96 and 192 evaluations on M1, computed independently.
FIGURES = {
    (2, "noise"): [1.1e-2, 3.2e-3, 8.9e-4, 2.3e-4],
    (2, "data"): [8.7e-3, 2.3e-3, 6.0e-4, 1.5e-4],
    (3, "noise"): [6.3e-3, 1.4e-3, 3.0e-4, 6.7e-5],
    (3, "data"): [3.1e-3, 6.0e-4, 1.3e-4, 3.2e-5],
}
# Six uneven steps, with steps of length zero at the end, at the start, and at both.
UNEVEN = np.linspace(1.0, 0.1, 7) ** 2
RESTS = ((0, 186), (2, 184), (93, 93))


@functools.cache
def solution():
    """Return the ends of M1's flow on VP from 100 normal starts."""
    return runge_kutta(LAW, M1, starts(100), 0.01, 600)


@functools.cache
def ends(order, form):
    """Return the ends `(8, 100, 1)` on M1, by one program.

    The grids are the even ones of `SIZES`, `UNEVEN` with each of `RESTS`, and its first step alone.
    """
    uneven = [np.pad(UNEVEN, rest, mode="edge") for rest in RESTS]
    first = np.pad(UNEVEN[:2], (0, 191), mode="edge")
    ts = np.concatenate([even_in_lam(LAW, SIZES, 0.01), np.stack([*uneven, first], axis=1)], axis=1)
    method = dpm_multistep(LAW, order, form)
    run = lambda x, ts: sample(KEY, M1.predict(LAW), method, x, ts).x
    return np.asarray(jax.jit(jax.vmap(run, in_axes=(None, 1)))(starts(100), ts))


@pytest.mark.parametrize(("order", "form"), CASES)
def test_mixture_figures(order, form):
    """Errors are within 10 % of the figures, and all slopes end at 2."""
    found = np.sqrt(np.mean((ends(order, form)[:4] - solution()[None]) ** 2, axis=(1, 2)))
    np.testing.assert_allclose(found, FIGURES[order, form], rtol=0.1)
    assert abs(np.log2(found[2] / found[3]) - 2.0) < 0.25


def by_hand(y, lam, order, form, falls=False):
    """Run the published formulas for M1 in NumPy, for steps of any length.

    The state is `y = x / a`, for which a = 1 and `c = exp(-lam)` under any law.
    """
    outputs, lams, n = [], [], len(lam) - 1
    for i in range(n):
        (c, c_s), one = np.exp(-lam[i : i + 2]), np.ones((1, 1))
        x0, eps, _ = M1._posterior(y, one, c * one)
        outputs.insert(0, eps if form == "noise" else x0)
        lams.insert(0, lam[i])
        h = lam[i + 1] - lam[i]
        now = min(order, i + 1, n - i if falls else order)
        D1 = D2 = np.zeros_like(outputs[0])
        if now >= 2:
            r0 = (lams[0] - lams[1]) / h
            D1 = A = (outputs[0] - outputs[1]) / r0
        if now == 3:
            r1 = (lams[1] - lams[2]) / h
            B = (outputs[1] - outputs[2]) / r1
            D1, D2 = A + r0 / (r0 + r1) * (A - B), (A - B) / (r0 + r1)
        if form == "noise":
            p1, keep, scale = np.expm1(h), 1.0, -c_s
            p2, p3 = p1 / h - 1, (p1 / h - 1) / h - 0.5
        else:
            p1, keep, scale = np.expm1(-h), c_s / c, -1.0
            p2, p3 = -(p1 / h + 1), (p1 / h + 1) / h - 0.5
        p2 = p1 / 2 if now < 3 else p2
        y = keep * y + scale * (p1 * outputs[0] + p2 * D1 + p3 * D2)
    return y


def in_x(ts, order, form):
    """Return x of `by_hand` on VP from `starts(100)`."""
    a, lam = np.asarray(LAW.coeffs(ts).a), np.asarray(LAW.lam(ts))
    return a[-1] * by_hand(starts(100) / a[0], lam, order, form)


@pytest.mark.parametrize(("order", "form"), CASES)
def test_uneven_grids_by_hand(order, form):
    """Runs on uneven grids equal the formulas, also with padding; the first step is DDIM's."""
    *uneven, first = ends(order, form)[4:]
    for found in uneven:
        np.testing.assert_allclose(found, in_x(UNEVEN, order, form), rtol=1e-9)
    np.testing.assert_allclose(first, ddim_by_hand(UNEVEN[:2]), rtol=1e-11)


def ddim_by_hand(ts):
    """Run DDIM, `a_s x0 + c_s eps`, step by step from `starts(100)`."""
    x, (a, c) = starts(100), (np.asarray(v) for v in LAW.coeffs(ts))
    for i in range(len(ts) - 1):
        out = M1.predict(LAW)(x, ts[i])
        x = a[i + 1] * out.x0 + c[i + 1] * out.eps
    return x


@pytest.mark.parametrize("form", ["noise", "data"])
def test_order_one_is_ddim(form):
    method = dpm_multistep(LAW, 1, form)
    run = jax.jit(lambda x, ts: sample(KEY, M1.predict(LAW), method, x, ts).x)
    np.testing.assert_allclose(run(starts(100), UNEVEN), ddim_by_hand(UNEVEN), rtol=1e-11)
    assert method.nfe == 1


@pytest.mark.parametrize(("order", "form"), [(2, "noise"), (3, "data")])
def test_all_laws_and_a_falling_order(order, form):
    """In `x / a` every law gives the same result on the same uneven grid in lam.

    The order falls to 1 at the end, and every example has its own times. Data at one point are
    reached exactly.
    """
    lam, y0 = np.array([-3.0, -2.0, -1.5, 0.2, 1.0, 2.2, 3.0]), np.exp(3.0) * starts(10)
    law, ts, a, y = side_by_side(lam, y0)

    @jax.jit
    def run(x, ts, means, stds):
        predict = M1._replace(means=means, stds=stds).predict(law)
        return sample(
            KEY, predict, dpm_multistep(law, order, form, lower_order_final=True), x, ts
        ).x

    def of_each(means, stds):
        x = np.asarray(run(a[0][:, None] * y, ts, means, stds))
        return (x / a[-1][:, None]).reshape(len(LAWS), *y0.shape)

    truths = (by_hand(y0, lam, order, form, True), 0.4 + np.exp(-6.0) * (y0 - 0.4))
    ends = of_each(M1.means, M1.stds), of_each(np.full((2, 1), 0.4), np.zeros(2))
    for found, truth in zip(ends, truths):
        for name, end in zip(LAWS, found):
            np.testing.assert_allclose(end, truth, rtol=1e-9, atol=1e-10, err_msg=name)


def moments_of_sde(law, ts, eta, order):
    """Return exact mean and variance of SDE-DPM-Solver++ on one-dimensional Gaussian data.

    A step is affine in x and in the previous conditional mean m. So the pair (x, m) stays Gaussian,
    and a recursion gives its mean and covariance.
    """
    mean, cov = np.zeros(2), np.diag([PRIOR_STD[law] ** 2, 0.0])
    before = None
    for t, s in pairwise(ts):
        now, then = Level(law, t), Level(law, s)
        h = np.log(then.a / then.c) - np.log(now.a / now.c)
        kept = then.c / now.c * np.exp(-eta * h)
        pull = -then.a * np.expm1(-(1 + eta) * h)
        lead = 0.0 if before is None or order == 1 else 0.5 * h / before
        g, shift = now.x0_gain, MEAN * (1 - now.x0_gain * now.a)
        step = np.array([[kept + pull * (1 + lead) * g, -pull * lead], [g, 0.0]])
        mean = step @ mean + np.array([pull * (1 + lead) * shift, shift])
        cov = step @ cov @ step.T
        cov[0, 0] += -(then.c**2) * np.expm1(-2 * eta * h)
        before = h
    return mean[0], cov[0, 0]


# Each law, order and strength at least once; a law enters only by its coefficients.
@pytest.mark.parametrize(
    ("name", "order", "eta"), [("ve", 1, 1.0), ("subvp", 2, 1.0), ("vp", 2, 0.4)]
)
def test_few_noisy_steps_follow_the_recursion(name, order, eta):
    """Four uneven steps give the recursion's moments, within four standard errors of 40 000."""
    n, law = 40_000, LAWS[name]
    ts = np.linspace(1.0, 0.1, 5) ** 2
    predict = Gaussian.scalar(MEAN, STD).predict(law)
    x = PRIOR_STD[name] * np.random.default_rng(1).standard_normal((n, 1))
    method, key = dpm_multistep(law, order, eta=eta), jax.random.key(2, impl="rbg")
    out = np.asarray(jax.jit(lambda x, ts: sample(key, predict, method, x, ts).x)(x, ts))
    mean, var = moments_of_sde(name, ts, eta, order)
    assert abs(out.mean() - mean) < 4 * (var / n) ** 0.5
    assert abs(out.var() / var - 1) < 4 * (2 / n) ** 0.5


@pytest.mark.parametrize("name", ["vp", "subvp", "ve"])
def test_order_one_of_the_sde_is_ancestral_sampling(name):
    """The two recursions agree; other tests compare the samplers with them."""
    ts = np.linspace(1.0, 0.1, 5) ** 2
    ours = moments_of_sde(name, ts, 1.0, 1)
    np.testing.assert_allclose(ours, recursion(name, ts, step_posterior))


@pytest.mark.parametrize("eta", [0.4, 1.0])
def test_many_noisy_steps_give_the_law_of_the_data(eta):
    """The bias falls with the square of the step, by the recursion that the test above checks."""
    gaps = []
    for steps in (25, 50, 100):
        ts = even_in_lam(LAW, (steps,), 0.01)[:, 0]
        gaps.append(moments_of_sde("vp", ts, eta, 2)[1] / Level("vp", 0.01).v - 1)
    assert abs(gaps[2]) < 1e-2 and abs(gaps[2]) < abs(gaps[1]) / 2 < abs(gaps[0]) / 4, gaps


def test_one_noisy_step_is_exact_on_a_point():
    """For data at one point m, one step leads from the law at t to that at s, N(a m, c^2)."""
    n, names = 20_000, ("vp", "subvp", "edm")
    point = Gaussian(np.array([0.4]), np.zeros((1, 1)))

    # The law's number is an argument, because XLA would fold computations with constants.
    @jax.jit
    def both(key, z, lam, which):
        law = LawByExample([LAWS[name] for name in names], which)
        t, s = law.t_of_lam(lam[0]), law.t_of_lam(lam[1])
        a, c = law.coeffs(t)
        x = 0.4 * a[:, None] + c[:, None] * z
        methods = [dpm_multistep(law, 2, eta=eta) for eta in (0.3, 1.0)]
        steps = [m.step(key, point.predict(law), m.init(x, t), Span(t, s)).x for m in methods]
        return jnp.stack(steps), law.coeffs(s)

    z = np.random.default_rng(1).standard_normal((3 * n, 1))
    lam = np.repeat([[-1.0], [0.5]], 3 * n, axis=1)
    found = both(jax.random.key(2, impl="rbg"), z, lam, np.repeat(np.arange(3), n))
    out, (a, c) = jax.device_get(found)
    out, a, c = out.reshape(2, 3, n), a[::n], c[::n]
    assert np.all(np.abs(out.mean(axis=2) - 0.4 * a[None]) < 4 * c[None] / n**0.5)
    assert np.all(np.abs(out.var(axis=2) / c[None] ** 2 - 1) < 4 * (2 / n) ** 0.5)


def test_what_is_refused():
    for kwargs, words in (
        ({"order": 4}, "must be 1, 2 or 3"),
        ({"form": "x"}, "form is 'x'"),
        ({"eta": -1.0}, "must not be negative"),
        ({"eta": 0.5, "form": "noise"}, "form 'data' only"),
    ):
        with pytest.raises(ValueError, match=words):
            dpm_multistep(VP(), **kwargs)
    assert isinstance(dpm_multistep(VP()).init(np.ones((2, 1)), np.ones(())), State)
