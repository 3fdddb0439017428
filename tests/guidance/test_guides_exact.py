"""Guides against conditional scores that are known: at any state, at any time, for every law."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closed_form import Gaussian
from linear_gaussian import (
    LAWS,
    NOISE,
    OPERATOR,
    PRIOR,
    ROUND,
    A,
    D,
    Y,
    posterior,
    states,
    times,
)

from guidance import annealed, dps, mmps, pigdm, with_score
from guidance.operators import matrix
from sde_lib import Flow, example_keys, normal_like
from sde_lib.prediction import parametrize

pytestmark = pytest.mark.usefixtures("strict_ranks")
GUIDES = (mmps, dps, pigdm, annealed)
NO_SVD = OPERATOR._replace(svd=None)


def check(found, truth, rtol):
    """All four fields, relative to the largest of each."""
    for one, other in zip(found, truth):
        np.testing.assert_allclose(one, other, rtol=0, atol=rtol * np.max(np.abs(other)))


def at_all_times(law, guide, data, truth, rtol):
    """At both ends of the law and between, a few states each, in one call with a time for each."""
    x = jnp.concatenate([states(law, data, t) for t in times(law)])
    t = jnp.repeat(jnp.asarray(times(law)), len(x) // len(times(law)))
    run = lambda x, t: (guide(data.predict(law))(x, t), truth.predict(law)(x, t))
    found, exact = jax.jit(run)(x, t)
    for time in times(law):
        check(*([field[t == time] for field in fields] for fields in (found, exact)), rtol)


@pytest.mark.parametrize("law", LAWS)
def test_mmps_is_exact_for_gaussian_data(law, x64):
    """Correlated data, a random matrix: the posterior's score after three iterations for the three
    values of y."""
    guide = mmps(LAWS[law], OPERATOR, Y, NOISE, iterations=3)
    at_all_times(LAWS[law], guide, PRIOR, posterior(PRIOR, A, Y, NOISE), 1e-11)


def test_mmps_by_forward_products_and_conjugate_gradients(x64):
    guide = mmps(LAWS["vp"], OPERATOR, Y, NOISE, 3, products="jvp", solver="cg")
    at_all_times(LAWS["vp"], guide, PRIOR, posterior(PRIOR, A, Y, NOISE), 1e-11)


def test_mmps_of_too_few_iterations_is_not(x64):
    """What the iterations are for."""
    law, t = LAWS["vp"], jnp.asarray(0.3)
    x, predict = states(law, PRIOR, 0.3), PRIOR.predict(law)
    run = lambda x: [
        mmps(law, OPERATOR, Y, NOISE, n, data_std=std)(predict)(x, t).x0
        for std in (None, 1.0)
        for n in (1, 2, 3)
    ]
    truth = posterior(PRIOR, A, Y, NOISE).predict(law)(x, t).x0
    errors = [float(jnp.sqrt(jnp.mean((found - truth) ** 2))) for found in jax.jit(run)(x)]
    plain, better = np.reshape(errors, (2, 3))
    assert plain[0] > 4 * plain[1] > 1e6 * plain[2]
    # Preconditioned, the same answer sooner.
    assert better[0] < 0.5 * plain[0] and better[1] < plain[1] and better[2] < 1e-9


@pytest.mark.parametrize("law", ["subvp", "edm"])
def test_pigdm_is_exact_for_round_data(law, x64):
    """With the right data_std."""
    guide = pigdm(LAWS[law], OPERATOR, Y, NOISE, data_std=0.7)
    at_all_times(LAWS[law], guide, ROUND, posterior(ROUND, A, Y, NOISE), 1e-11)


def test_pigdm_without_svd(x64):
    guide = pigdm(LAWS["vp"], NO_SVD, Y, NOISE, data_std=0.7, iterations=3)
    at_all_times(LAWS["vp"], guide, ROUND, posterior(ROUND, A, Y, NOISE), 1e-11)


def test_mmps_preconditioned_by_the_truth(x64):
    """For round data of its data_std the first iteration is all; without noise too."""
    law, t = LAWS["vp"], jnp.asarray(0.2)
    x, predict = states(law, ROUND, 0.2), ROUND.predict(LAWS["vp"])
    for noise in (NOISE, 0.0):
        run = lambda x, noise=noise: [
            mmps(law, OPERATOR, Y, noise, 1, data_std=0.7)(predict)(x, t),
            pigdm(law, OPERATOR, Y, noise, data_std=0.7)(predict)(x, t),
        ]
        check(*jax.jit(run)(x), 1e-10)


def test_pigdm_without_noise(x64):
    """y exactly known: the limit of little noise, and no division by it."""
    law, t = LAWS["vp"], jnp.asarray(0.2)
    x = states(law, ROUND, 0.2)
    rows = matrix((D,), np.concatenate([A, A[:1]]))  # of rank 3: the fourth row repeats the first
    y = np.append(Y, Y[0])
    found = jax.jit(pigdm(law, rows, y, 0.0, data_std=0.7)(ROUND.predict(law)))(x, t)
    check(found, posterior(ROUND, A, Y, 1e-4).predict(law)(x, t), 1e-6)


@pytest.mark.parametrize("operator", [OPERATOR, NO_SVD], ids=["svd", "cg"])
def test_annealed_is_exact_for_data_of_which_nothing_is_known(operator, x64):
    """`flat` is the limit for data of growing variance, which it nears in proportion."""
    law, t = LAWS["vp"], jnp.asarray(0.4)
    x, wides = states(law, ROUND, 0.4), [Gaussian(np.zeros(D), v * np.eye(D)) for v in (1e3, 1e4)]

    def run(x):
        for wide in wides:
            truth = posterior(wide, A, Y, NOISE).score(law)(x, t)
            found = annealed(law, operator, Y, NOISE)(wide.predict(law))(x, t).score
            yield jnp.max(jnp.abs(found - truth)) / jnp.max(jnp.abs(truth))

    errors = jax.jit(lambda x: list(run(x)))(x)
    assert errors[1] < 1e-3 and 9.0 < errors[0] / errors[1] < 11.0


@pytest.mark.parametrize("form", ["residual", "drawn"])
def test_annealed_forms(form, x64):
    """Against the derivative of the Gaussian that each form states."""
    law, t, gamma = LAWS["edm"], 0.3, 0.7
    keys = example_keys(3, jnp.arange(4))
    x = states(law, PRIOR, t)
    a, _, c = law.coeffs(jnp.asarray(t))
    z = normal_like(keys, x) if form == "drawn" else 0.0 * x

    def log_likelihood(x, z):
        y_t = a * Y + c * A @ z
        return -0.5 * jnp.sum((y_t - A @ x) ** 2) / (a**2 * NOISE**2 + gamma**2 * c**2)

    guide = annealed(law, OPERATOR, Y, NOISE, form, gamma, keys)
    added = lambda x: guide(PRIOR.predict(law))(x, t).score - PRIOR.score(law)(x, t)
    run = lambda x: (added(x), jax.vmap(jax.grad(log_likelihood))(x, z))
    np.testing.assert_allclose(*jax.jit(run)(x), rtol=1e-9)


def test_dps_is_the_derivative_of_its_likelihood(x64):
    law, t = LAWS["flow"], 0.35
    x = states(law, PRIOR, t)
    predict = PRIOR.predict(law)

    def log_likelihood(x):
        r = Y - A @ predict(x[None], t).x0[0]
        return -0.5 * 0.8 * jnp.sum(r**2) / NOISE**2

    guided = dps(law, OPERATOR, Y, NOISE, zeta=0.8)(predict)
    added = lambda x: guided(x, t).score - predict(x, t).score
    run = lambda x: (added(x), jax.vmap(jax.grad(log_likelihood))(x))
    np.testing.assert_allclose(*jax.jit(run)(x), rtol=1e-9)


@pytest.mark.parametrize("law", ["vp", "ve", "flow"])
def test_with_score_is_tweedie(law, x64):
    """`x0 = (x + c^2 score) / a` and the rest, as for a network of that score."""
    law = LAWS[law]
    gradient = jnp.asarray(np.random.default_rng(5).standard_normal((4, D)))
    raw = lambda x, t: PRIOR.score(law)(x, t) + gradient
    truth = parametrize("score", law, raw)
    found = lambda x, t: with_score(law, PRIOR.predict(law)(x, t), x, t, gradient)
    run = jax.jit(lambda x, t: (found(x, t), truth(x, t)))
    for t in times(law)[1:]:
        check(*run(states(law, PRIOR, t), jnp.full(4, t)), 1e-9)


@pytest.mark.parametrize("make", GUIDES)
def test_a_measurement_for_each(make, x64):
    """One y per example is each example with its own y, whatever is beside it."""
    law, t = LAWS["edm"], jnp.asarray(0.5)
    x = states(law, PRIOR, 0.5)
    y = np.random.default_rng(2).standard_normal((4, 3))
    run = lambda x, y: make(law, OPERATOR, y, NOISE)(PRIOR.predict(law))(x, t).x0
    alone = jax.vmap(lambda x, y: run(x[None], y)[0])
    np.testing.assert_allclose(*jax.jit(lambda x, y: (run(x, y), alone(x, y)))(x, y), rtol=1e-9)


def test_guides_stack(x64):
    """Two measurements, one after the other, are both at once: for Gaussian data exactly."""
    law = LAWS["vp"]
    first, second = matrix((D,), A[:1]), matrix((D,), A[1:])
    inner = mmps(law, first, Y[:1], NOISE, 1)
    outer = mmps(law, second, Y[1:], NOISE, 2)
    at_all_times(
        law, lambda predict: outer(inner(predict)), PRIOR, posterior(PRIOR, A, Y, NOISE), 1e-9
    )


@pytest.mark.parametrize(
    ("law", "kind"), [("vp", "eps"), ("ve", "eps"), ("edm", "x0"), ("flow", "velocity")]
)
def test_both_ends_in_float32(law, kind):
    """A network of a usual kind: near the exact answer at both ends of time, and a time `()`."""
    law, exact = LAWS[law], posterior(PRIOR, A, Y, NOISE).predict(LAWS[law])
    predict = parametrize(kind, law, lambda x, t: getattr(PRIOR.predict(law)(x, t), kind))
    run = lambda x, t: [make(law, OPERATOR, Y, NOISE)(predict)(x, t) for make in GUIDES]
    run = jax.jit(lambda x, t, run=run: (exact(x, t), *run(x, t)))
    for t in (law.t0, law.t1):
        x, t = states(law, PRIOR, t).astype(jnp.float32), jnp.asarray(t, jnp.float32)
        truth, by_mmps, *others = run(x, t)
        for found in (by_mmps, *others):
            assert all(v.dtype == jnp.float32 and np.all(np.isfinite(v)) for v in found)
        # What rounding of the network's output becomes in V = (c^2 / a) J.
        a, _, c = law.coeffs(t)
        check(by_mmps[:2], truth[:2], 1e-3 + 6e-7 * float(c / a) ** 2)


def test_where_a_is_zero():
    """The flow law at t = 1: x says nothing, and nothing becomes infinite."""
    law = Flow(t1=1.0)
    x, t = jnp.ones((2, D)), jnp.asarray(1.0)
    predict = PRIOR.predict(law)
    run = lambda x: [make(law, OPERATOR, Y, NOISE)(predict)(x, t)[:2] for make in GUIDES]
    assert all(np.all(np.isfinite(v)) for v in jax.tree.leaves(jax.jit(run)(x)))
