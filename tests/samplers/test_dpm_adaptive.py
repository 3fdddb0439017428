"""Adaptive DPM-Solver: errors against an exact flow, and the choice of steps."""

import jax
import numpy as np
import pytest
from closed_form import M1, Gaussian
from fast_solvers import solution, starts

from samplers.adaptive.dpm_adaptive import Control, dpm_adaptive
from sde_lib import EDM, VE, VP, Flow, SubVP

LAWS = {"vp": VP(), "subvp": SubVP(), "ve": VE(), "edm": EDM(), "flow": Flow(t1=0.95)}
KEY = jax.random.key(0)


def normals(n, dims):
    return np.random.default_rng(0).standard_normal((n, dims))


def scaled(factor, **options):
    """Return the sampler with both tolerances times a factor, which may be traced."""
    return Control(rtol=0.05 * factor, atol=0.0078 * factor, **options)


@pytest.mark.parametrize(("order", "form"), [(2, "noise"), (3, "data")])
def test_a_tighter_tolerance_costs_more_and_errs_less(order, form, x64):
    """A tighter tolerance gives smaller errors on M1 and needs more evaluations.

    The tolerance is halved for order 2. It is quartered for order 3, whose error at the loosest
    tolerance is that of the longest step. The reported number of evaluations is the number made.
    """
    law, calls = VP(), []
    exact = M1.predict(law)

    def predict(x, t):
        jax.debug.callback(lambda: calls.append(1))
        return exact(x, t)

    run = jax.jit(
        lambda x, factor: dpm_adaptive(law, 0.01, order, form, scaled(factor))(KEY, predict, x)
    )
    errors, costs = [], []
    for factor in (1.0, 0.5, 0.25) if order == 2 else (1.0, 0.25, 1 / 16):
        calls.clear()
        result = jax.device_get(run(starts(), factor))
        jax.effects_barrier()
        assert np.max(result.nfe) == len(calls)
        assert np.all(result.nfe % order == 0) and not np.any(result.failed)
        errors.append(np.sqrt(np.mean((result.x - solution()) ** 2)))
        costs.append(np.mean(result.nfe))
    assert np.all(np.diff(errors) < 0) and np.all(np.diff(costs) > 0), (errors, costs)
    assert errors[0] < 0.05 and errors[-1] < errors[0] / 1.5 and costs[0] < 40


# Every law and both forms of order 3 at least once; the two do not interact.
@pytest.mark.parametrize(
    ("name", "form"),
    [("vp", "noise"), ("subvp", "data"), ("ve", "data"), ("edm", "noise"), ("flow", "noise")],
)
def test_no_sample_is_wrong_unnoticed(name, form):
    """In float32, every one of 2000 samples of Gaussian data ends within a few tolerances.

    Without a longest step, single one-dimensional samples would end with errors of order one: where
    the difference of the two orders changes sign, they agree by chance.
    """
    law, data = LAWS[name], Gaussian.scalar(0.3, 0.7)
    eps = 1e-2
    x = np.float32(float(law.prior_std()) * normals(2000, 1))
    method = dpm_adaptive(law, eps, 3, form)
    result = jax.device_get(jax.jit(lambda x: method(KEY, data.predict(law), x))(x))
    truth = data.flow_map(law, x, law.t1, eps)
    assert result.x.dtype == np.float32 and not np.any(result.failed)
    assert np.max(np.abs(result.x - truth)) < 0.05
    assert np.mean(result.nfe) < 60


@pytest.mark.parametrize("per_example", [True, False])
def test_an_example_does_not_depend_on_its_batch_but_a_joint_run_does(per_example):
    """The first example gives the same among other examples and at another position."""
    law = VP()
    method = dpm_adaptive(law, 0.01, 2, "noise", per_example=per_example)
    run = jax.jit(lambda x: method(KEY, M1.predict(law), x))
    x = np.float32(normals(4, 1))
    others = np.concatenate([x[:1], 6.0 * x[1:]])
    first, second, last = (jax.device_get(run(v)) for v in (x, others, others[::-1]))
    assert first.nfe.shape == first.failed.shape == (4,)
    gap = np.abs(first.x[0] - second.x[0])
    if per_example:
        np.testing.assert_allclose(last.x[3], first.x[0], atol=1e-5)
        assert last.nfe[3] == first.nfe[0] == second.nfe[0]
        assert gap < 1e-5
    else:
        assert len(np.unique(first.nfe)) == 1
        assert gap > 1e-4


def test_trials_by_hand(x64):
    """On M1, order 2 has the same number of trials, with rejected ones, and end as the formulas."""
    law, x, control = VP(), np.full((1, 1), 1.9), scaled(0.1)
    first_lam, end = np.asarray(law.lam(np.array([1.0, 0.01])))

    @jax.jit
    def run(first):
        options = control._replace(first=first, longest=1.0)
        return dpm_adaptive(law, 0.01, 2, "noise", control=options)(KEY, M1.predict(law), x)

    def coeffs(lam):
        """Return a and c of a law with `a^2 + c^2 = 1`."""
        return 1.0 / np.sqrt(1.0 + np.exp(-2.0 * lam)), 1.0 / np.sqrt(1.0 + np.exp(2.0 * lam))

    def eps_of(x, lam):
        return M1._posterior(x, *(np.full((1, 1), v) for v in coeffs(lam)))[1]

    def trial(x, before, lam, h):
        def held(eps, h):
            (a, _), (a_s, c_s) = coeffs(lam), coeffs(lam + h)
            return a_s / a * x - c_s * np.expm1(h) * eps

        eps = eps_of(x, lam)
        low, high = held(eps, h), held(eps_of(held(eps, h / 2), lam + h / 2), h)
        size = np.maximum(np.abs(low), np.abs(before))
        scale = np.maximum(control.atol, control.rtol * size)
        return low, high, np.sqrt(np.mean(((high - low) / scale) ** 2))

    counts = []
    for first in (0.6, 1e-3):
        lam, before, now, used, rejected, h = first_lam, x, x, 0, 0, first
        while lam < end - 1e-12:
            h, used = min(h, end - lam), used + 2
            low, high, E = trial(now, before, lam, h)
            if E <= 1:
                lam, before, now = lam + h, low, high
            else:
                rejected += 1
            h = 0.9 * h * E**-0.5
        result = jax.device_get(run(first))
        assert result.nfe[0] == used and rejected > 0
        np.testing.assert_allclose(result.x, now, rtol=1e-8)
        counts.append(used)
    assert counts[0] != counts[1]


def test_failure_is_reported():
    """Too few trials or a value that is not finite give `failed` and nan."""
    law, x = VP(), np.float32(normals(3, 2))
    predict = Gaussian.scalar(0.3, 0.7, 2).predict(law)
    run = jax.jit(
        lambda x, factor: dpm_adaptive(
            law, 0.01, 3, "noise", scaled(factor, max_steps=30), denoise=True
        )(KEY, predict, x)
    )
    short = jax.device_get(run(x, 1e-4))
    assert np.all(short.failed) and np.all(np.isnan(short.x))
    np.testing.assert_array_equal(short.nfe, 3 * 30 + 1)
    broken = np.where(np.arange(3)[:, None] == 1, np.float32(np.nan), x)
    result = jax.device_get(run(broken, 1.0))
    np.testing.assert_array_equal(result.failed, [False, True, False])
    np.testing.assert_array_equal(np.isnan(result.x).any(1), [False, True, False])
    assert result.nfe[1] == 3 + 1  # given up at once
    fine = run(x, 1.0)
    truth = predict(Gaussian.scalar(0.3, 0.7, 2).flow_map(law, x, 1.0, 0.01), 0.01).x0
    np.testing.assert_allclose(fine.x, truth, atol=0.03)


def test_a_point_is_reached_by_the_longest_steps(x64):
    """For data at one point both orders are exact, so E = 0, and steps have the longest length."""
    law, data = VP(), Gaussian(np.array([0.4]), np.zeros((1, 1)))
    x = normals(5, 1)
    method = dpm_adaptive(law, 0.01, 3, "noise", Control(longest=1.0))
    result = jax.device_get(jax.jit(lambda x: method(KEY, data.predict(law), x))(x))
    (a1, a), (c1, c) = (np.asarray(v) for v in law.coeffs(np.array([1.0, 0.01])))
    truth = 0.4 * a + c * (x - 0.4 * a1) / c1
    np.testing.assert_allclose(result.x, truth, atol=1e-9)
    assert np.max(result.nfe) <= 9


def test_what_is_refused():
    with pytest.raises(ValueError, match="must be 2 or 3"):
        dpm_adaptive(VP(), 0.01, order=1)
    with pytest.raises(ValueError, match="between 0 and t1"):
        dpm_adaptive(VP(), 1.5)
    with pytest.raises(ValueError, match="form is 'x'"):
        dpm_adaptive(VP(), 0.01, form="x")
