"""DPM-Solver multistep: published figures, an independent NumPy version, and the SDE's moments."""

from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closed_form import M1, Gaussian
from recursion import MEAN, PRIOR_STD, STD, Level, recursion, step_posterior
from rk4 import errors, runge_kutta

from samplers import State, ddim, make_grid, sample
from samplers.dpm_multistep import dpm_multistep
from sde_lib import EDM, VE, VP, Flow, SubVP

pytestmark = pytest.mark.usefixtures("x64", "strict_ranks")
KEY = jax.random.key(0)
LAWS = {"vp": VP(), "subvp": SubVP(), "ve": VE(), "edm": EDM(), "flow": Flow(t1=0.95)}
CASES = [(2, "noise"), (2, "data"), (3, "noise"), (3, "data")]

# Of 24, 48, 96 and 192 evaluations on M1, computed elsewhere.
FIGURES = {
    (2, "noise"): [1.1e-2, 3.2e-3, 8.9e-4, 2.3e-4],
    (2, "data"): [8.7e-3, 2.3e-3, 6.0e-4, 1.5e-4],
    (3, "noise"): [6.3e-3, 1.4e-3, 3.0e-4, 6.7e-5],
    (3, "data"): [3.1e-3, 6.0e-4, 1.3e-4, 3.2e-5],
}


def normals(n, dims):
    return jnp.asarray(np.random.default_rng(0).standard_normal((n, dims)))


@pytest.fixture(scope="module")
def mixture_end():
    """2000 normal starts on VP and where the flow of M1 takes them."""
    with jax.enable_x64(True):
        start = normals(2000, 1)
        yield start, jax.jit(lambda x: runge_kutta(VP(), M1, x, 0.01, 1000))(start)


@pytest.mark.parametrize(("order", "form"), CASES)
def test_mixture_figures(order, form, mixture_end):
    """Within 10 %; all of them end in a slope of 2."""
    method = lambda law: dpm_multistep(law, order, form)
    found = errors(VP(), M1, method, (24, 48, 96, 192), 0.01, *mixture_end)
    np.testing.assert_allclose(found, FIGURES[order, form], rtol=0.1)
    assert abs(np.log2(found[2] / found[3]) - 2.0) < 0.25


def by_hand(x, ts, order, form, falls):
    """The published formulas for VP and M1, step by step in NumPy, for steps of any length."""
    law, outputs, lams = VP(), [], []
    a, _, c = (np.asarray(v) for v in law.coeffs(ts))
    lam, n = np.log(a / c), len(ts) - 1
    for i in range(n):
        prediction = M1.predict(law)(x, ts[i])
        outputs.insert(0, np.asarray(prediction.eps if form == "noise" else prediction.x0))
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
            p1, keep, scale = np.expm1(h), a[i + 1] / a[i], -c[i + 1]
            p2, p3 = p1 / h - 1, (p1 / h - 1) / h - 0.5
        else:
            p1, keep, scale = np.expm1(-h), c[i + 1] / c[i], -a[i + 1]
            p2, p3 = -(p1 / h + 1), (p1 / h + 1) / h - 0.5
        p2 = p1 / 2 if now < 3 else p2
        x = keep * x + scale * (p1 * outputs[0] + p2 * D1 + p3 * D2)
    return x


@pytest.mark.parametrize(("order", "form"), CASES)
def test_uneven_grids_and_a_falling_order(order, form):
    """Steps of unequal length, to the end at full order or down to order 1; and the same run with
    the grid padded at either side."""
    law, x, grid = VP(), normals(7, 1), make_grid("quadratic", VP(), 6, 0.01)
    ts = jnp.stack([jnp.pad(grid, pad, mode="edge") for pad in ((0, 2), (2, 0), (1, 1))], axis=1)
    ts = jnp.repeat(ts, 7, axis=1)
    for steps in (None, 6):
        method = dpm_multistep(law, order, form, steps=steps)
        run = jax.jit(lambda x, m=method: sample(KEY, M1.predict(law), m, x, ts))
        result = run(jnp.tile(x, (3, 1)))
        truth = by_hand(x, grid, order, form, steps is not None)
        np.testing.assert_allclose(result.x.reshape(3, 7, 1), np.stack([truth] * 3), rtol=1e-9)
        assert method.nfe == 1


def test_first_step_is_ddim_and_order_one_is_ddim_throughout():
    law, x, ts = VP(), normals(9, 1), make_grid("uniform", VP(), 5, 0.01)
    run = lambda method, ts: sample(KEY, M1.predict(law), method, x, ts).x
    for form in ("noise", "data"):
        first = run(dpm_multistep(law, 3, form), ts[:2])
        np.testing.assert_allclose(first, run(ddim(law), ts[:2]), rtol=1e-11)
        whole = run(dpm_multistep(law, 1, form), ts)
        np.testing.assert_allclose(whole, run(ddim(law), ts), rtol=1e-11)


@pytest.mark.parametrize("form", ["noise", "data"])
def test_rescaled_states_agree_between_laws(form):
    """In `x / a` the same computation for every law, on the same grid in lam; and data at one point
    are met exactly, by any number of steps."""
    lam, y0, results = jnp.linspace(-3.0, 3.0, 9), np.exp(3.0) * normals(50, 1), {}
    point = Gaussian(np.array([0.4]), np.zeros((1, 1)))
    for name, law in LAWS.items():
        ts, method = law.t_of_lam(lam), dpm_multistep(law, 3, form)
        a = law.coeffs(ts).a
        fields = (M1.predict(law), point.predict(law))
        run = lambda x, m=method, ts=ts, f=fields: [sample(KEY, p, m, x, ts).x for p in f]
        results[name] = [x / a[-1] for x in jax.jit(run)(a[0] * y0)]
    truth = 0.4 + np.exp(-6.0) * (y0 - 0.4)
    for name in LAWS:
        close = {"atol": 1e-11, "rtol": 1e-10, "err_msg": name}
        np.testing.assert_allclose(results[name][0], results["vp"][0], **close)
        np.testing.assert_allclose(results[name][1], truth, **close)


def moments_of_sde(law, ts, eta, order):
    """Mean and variance of SDE-DPM-Solver++ on one-dimensional Gaussian data, exactly.

    A step is affine in x and the last conditional mean m, so the pair (x, m) stays Gaussian; its
    mean and covariance are followed.
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


@pytest.mark.parametrize(("order", "eta"), [(1, 1.0), (2, 1.0), (2, 0.4)])
@pytest.mark.parametrize("name", ["vp", "subvp", "ve"])
def test_few_noisy_steps_follow_the_recursion(name, order, eta):
    """Four steps of unequal length, 40 000 samples, four standard errors."""
    n, law = 40_000, LAWS[name]
    ts = make_grid("quadratic", law, 4, 0.01)
    predict = Gaussian.scalar(MEAN, STD).predict(law)
    x = PRIOR_STD[name] * jax.random.normal(jax.random.key(1, impl="rbg"), (n, 1))
    method, key = dpm_multistep(law, order, eta=eta), jax.random.key(2, impl="rbg")
    out = np.asarray(jax.jit(lambda x: sample(key, predict, method, x, ts).x)(x))
    mean, var = moments_of_sde(name, np.asarray(ts), eta, order)
    assert abs(out.mean() - mean) < 4 * (var / n) ** 0.5
    assert abs(out.var() / var - 1) < 4 * (2 / n) ** 0.5
    if order == 1:
        np.testing.assert_allclose((mean, var), recursion(name, np.asarray(ts), step_posterior))


@pytest.mark.parametrize("eta", [0.4, 1.0])
def test_many_noisy_steps_give_the_law_of_the_data(eta):
    """By the recursion, to which the test above ties the sampler: the bias falls as the square."""
    gaps = []
    for steps in (25, 50, 100):
        ts = np.asarray(make_grid("uniform_lam", VP(), steps, 0.01))
        gaps.append(moments_of_sde("vp", ts, eta, 2)[1] / Level("vp", 0.01).v - 1)
    assert abs(gaps[2]) < 1e-2 and abs(gaps[2]) < abs(gaps[1]) / 2 < abs(gaps[0]) / 4, gaps


@pytest.mark.parametrize("name", ["vp", "subvp", "edm"])
def test_one_noisy_step_is_exact_on_a_point(name):
    """From the exact law at t to the exact law at s: mean a m, standard deviation c."""
    law, n = LAWS[name], 40_000
    predict = Gaussian(np.array([0.4]), np.zeros((1, 1))).predict(law)
    t, s = law.t_of_lam(jnp.asarray(-1.0)), law.t_of_lam(jnp.asarray(0.5))
    x, _ = law.perturb(jax.random.key(1), jnp.full((n, 1), 0.4), t)
    a, _, c = law.coeffs(s)
    for eta in (0.3, 1.0):
        method = dpm_multistep(law, 2, eta=eta)
        out = method.step(jax.random.key(2), predict, method.init(x, t), t, s).x
        assert abs(out.mean() - 0.4 * a) < 4 * c / n**0.5
        assert abs(out.var() / c**2 - 1) < 4 * (2 / n) ** 0.5


def test_one_step_with_a_time_per_example():
    law, x = VP(), normals(3, 1)
    ts = jnp.asarray([[0.9, 0.5, 0.2], [0.7, 0.4, 0.1], [0.6, 0.3, 0.02]])
    for form in ("noise", "data"):
        method = dpm_multistep(law, 3, form, steps=2)
        run = lambda x, ts, m=method: sample(KEY, M1.predict(law), m, x, ts).x
        together = run(x, ts)
        np.testing.assert_allclose(together[1], run(x[1:2], ts[:, 1])[0], rtol=1e-11)


def test_what_is_refused():
    for kwargs, words in (
        ({"order": 4}, "must be 1, 2 or 3"),
        ({"form": "x"}, "form is 'x'"),
        ({"eta": -1.0}, "must not be negative"),
        ({"eta": 0.5, "form": "noise"}, "form 'data' only"),
    ):
        with pytest.raises(ValueError, match=words):
            dpm_multistep(VP(), **kwargs)
    assert isinstance(dpm_multistep(VP()).init(jnp.ones((2, 1)), jnp.asarray(1.0)), State)
