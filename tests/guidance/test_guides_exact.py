"""Guides against known conditional scores, at any state and time, for every law."""

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
from operators import matrix
from sde_lib import Flow, example_keys, normal_like
from sde_lib.prediction import parametrize

pytestmark = pytest.mark.usefixtures("strict_ranks")
GUIDES = (mmps, dps, pigdm, annealed)
NO_SVD = OPERATOR._replace(svd=None)


def check(found, truth, rtol):
    """Assert that two predictions agree, each field relative to its largest value."""
    for one, other in zip(found, truth):
        np.testing.assert_allclose(one, other, rtol=0, atol=rtol * np.max(np.abs(other)))


def at_all_times(law, guide, data, truth, rtol):
    """Check a guide at four times, from one end of the law to the other, a few states each.

    One call has all states, with a time per example.
    """
    x = np.concatenate([states(law, data, t) for t in times(law)])
    t = np.repeat(times(law), len(x) // len(times(law)))
    found = jax.device_get(jax.jit(guide(data.predict(law)))(x, t))
    exact = truth.predict(law)(x, t)
    for time in times(law):
        check(*([field[t == time] for field in fields] for fields in (found, exact)), rtol)


@pytest.mark.parametrize("law", ["subvp", "ve", "flow"])
def test_mmps_is_exact_for_gaussian_data(law, x64):
    """For correlated data and a random matrix, three iterations give the posterior's score.

    y has three values. VP is in the next test, EDM in `test_both_ends_in_float32`.
    """
    guide = mmps(LAWS[law], OPERATOR, Y, NOISE, iterations=3)
    at_all_times(LAWS[law], guide, PRIOR, posterior(PRIOR, A, Y, NOISE), 1e-11)


def test_mmps_by_forward_products_and_conjugate_gradients(x64):
    guide = mmps(LAWS["vp"], OPERATOR, Y, NOISE, 3, products="jvp", solver="cg")
    at_all_times(LAWS["vp"], guide, PRIOR, posterior(PRIOR, A, Y, NOISE), 1e-11)


def test_mmps_of_too_few_iterations_is_not(x64):
    """With fewer iterations than values of y, MMPS has an error."""
    law, t = LAWS["vp"], 0.3
    x, predict = states(law, PRIOR, t), PRIOR.predict(law)
    run = lambda x: [
        mmps(law, OPERATOR, Y, NOISE, n, data_std=std)(predict)(x, t).x0
        for n, std in ((1, None), (2, None), (3, None), (1, 1.0), (2, 1.0))
    ]
    truth = posterior(PRIOR, A, Y, NOISE).predict(law)(x, t).x0
    errors = [np.sqrt(np.mean((found - truth) ** 2)) for found in jax.jit(run)(x)]
    assert errors[0] > 4 * errors[1] > 1e6 * errors[2]
    # With a preconditioner the error falls faster.
    assert errors[3] < 0.5 * errors[0] and errors[4] < errors[1]


@pytest.mark.parametrize(
    ("law", "operator"), [("subvp", OPERATOR), ("edm", OPERATOR), ("vp", NO_SVD)]
)
def test_pigdm_is_exact_for_round_data(law, operator, x64):
    """PiGDM with the right data_std is exact for data of round covariance.

    Without the SVD it needs three iterations.
    """
    guide = pigdm(LAWS[law], operator, Y, NOISE, data_std=0.7, iterations=3)
    at_all_times(LAWS[law], guide, ROUND, posterior(ROUND, A, Y, NOISE), 1e-11)


def test_mmps_preconditioned_by_the_truth(x64):
    """For round data of std data_std, one iteration of MMPS is exact, also without noise."""
    law, x = LAWS["vp"], states(LAWS["vp"], ROUND, 0.2)
    run = lambda x: [
        (
            mmps(law, OPERATOR, Y, noise, 1, data_std=0.7)(ROUND.predict(law))(x, 0.2),
            pigdm(law, OPERATOR, Y, noise, data_std=0.7)(ROUND.predict(law))(x, 0.2),
        )
        for noise in (NOISE, 0.0)
    ]
    for found in jax.device_get(jax.jit(run)(x)):
        check(*found, 1e-10)


def test_pigdm_without_noise(x64):
    """Without noise PiGDM gives the limit of small noise, and does not divide by the noise."""
    law, x = LAWS["vp"], states(LAWS["vp"], ROUND, 0.2)
    rows = matrix((D,), np.concatenate([A, A[:1]]))  # of rank 3: the fourth row repeats the first
    y = np.append(Y, Y[0])
    found = jax.jit(pigdm(law, rows, y, 0.0, data_std=0.7)(ROUND.predict(law)))(x, 0.2)
    check(jax.device_get(found), posterior(ROUND, A, Y, 1e-4).predict(law)(x, 0.2), 1e-6)


def test_annealed_is_exact_for_data_of_which_nothing_is_known(x64):
    """Form "flat" is exact in the limit of data of large variance.

    The error falls in proportion to one over the variance.
    """
    law, x = LAWS["vp"], states(LAWS["vp"], ROUND, 0.4)
    wides = [Gaussian(np.zeros(D), v * np.eye(D)) for v in (1e3, 1e4)]

    def run(x):
        for operator in (OPERATOR, NO_SVD):
            for wide in wides:
                guide = annealed(law, operator, Y, NOISE)
                yield guide(wide.predict(law))(x, 0.4).score

    truths = [posterior(wide, A, Y, NOISE).score(law)(x, 0.4) for wide in wides]
    found = jax.device_get(jax.jit(lambda x: list(run(x)))(x))
    for pair in (found[:2], found[2:]):
        off = [np.max(np.abs(v - truth)) / np.max(np.abs(truth)) for v, truth in zip(pair, truths)]
        assert off[1] < 1e-3 and 9.0 < off[0] / off[1] < 11.0


@pytest.mark.parametrize("form", ["residual", "drawn"])
def test_annealed_forms(form, x64):
    """Each form adds the gradient of its Gaussian, `(y_t - A x) A / variance`, to the score."""
    law, t, gamma = LAWS["edm"], 0.3, 0.7
    x = states(law, PRIOR, t)

    @jax.jit
    def run(x):
        keys = example_keys(3, jnp.arange(4))
        guide = annealed(law, OPERATOR, Y, NOISE, form, gamma, keys)
        return guide(PRIOR.predict(law))(x, t).score, normal_like(keys, x)

    score, z = jax.device_get(run(x))
    a, c = (float(v) for v in law.coeffs(t))
    y_t = a * Y + c * z @ A.T * (form == "drawn")
    gradient = (y_t - x @ A.T) @ A / (a**2 * NOISE**2 + gamma**2 * c**2)
    np.testing.assert_allclose(score - PRIOR.score(law)(x, t), gradient, rtol=1e-9)


def test_dps_is_the_derivative_of_its_likelihood(x64):
    """DPS adds `(zeta / n^2) J^T A^T (y - A x0)`, with the Jacobian J of the exact x0 by x."""
    law, t = LAWS["flow"], 0.35
    x, a, c = states(law, PRIOR, t), 1.0 - t, t
    score = jax.jit(dps(law, OPERATOR, Y, NOISE, zeta=0.8)(PRIOR.predict(law)))(x, t).score
    plain = PRIOR.predict(law)(x, t)
    J = a * PRIOR.cov @ np.linalg.inv(a**2 * PRIOR.cov + c**2 * np.eye(D))
    gradient = 0.8 * (Y - plain.x0 @ A.T) @ A @ J / NOISE**2
    np.testing.assert_allclose(np.asarray(score) - plain.score, gradient, rtol=1e-9)


@pytest.mark.parametrize("law", ["vp", "ve", "flow"])
def test_with_score_is_tweedie(law, x64):
    """`with_score` gives `x0 = (x + c^2 score) / a` and all fields of a network with this score."""
    law = LAWS[law]
    gradient = np.random.default_rng(5).standard_normal((4, D))
    raw = lambda x, t: PRIOR.score(law)(x, t) + gradient
    truth = parametrize("score", law, raw)
    found = lambda x, t: with_score(law, PRIOR.predict(law)(x, t), x, t, gradient)
    run = jax.jit(lambda x, t: (found(x, t), truth(x, t)))
    for t in times(law)[1:]:
        check(*jax.device_get(run(states(law, PRIOR, t), np.full(4, t))), 1e-9)


def test_a_measurement_for_each(x64):
    """With one y per example, each example gives the same as beside other examples."""
    law, x = LAWS["edm"], states(LAWS["edm"], PRIOR, 0.5)
    y = np.random.default_rng(2).standard_normal((4, 3))
    run = jax.jit(
        lambda x, y: [
            make(law, OPERATOR, y, NOISE)(PRIOR.predict(law))(x, 0.5).x0 for make in GUIDES
        ]
    )
    together = jax.device_get(run(x, y))
    # Compare each example with itself among copies of it and its measurement.
    for i in range(4):
        for one, copies in zip(together, run(x[[i] * 4], y[[i] * 4])):
            np.testing.assert_allclose(copies, np.tile(one[i], (4, 1)), rtol=1e-9)


def test_guides_stack(x64):
    """Two guides, one around the other, are exact for both measurements of Gaussian data."""
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
    """In float32 guides are finite at both ends of time, and MMPS is near the exact answer.

    The network has a usual prediction kind, and the time is a scalar.
    """
    law, exact = LAWS[law], posterior(PRIOR, A, Y, NOISE).predict(LAWS[law])
    predict = parametrize(kind, law, lambda x, t: getattr(PRIOR.predict(law)(x, t), kind))
    run = jax.jit(lambda x, t: [make(law, OPERATOR, Y, NOISE)(predict)(x, t) for make in GUIDES])
    for t in np.float32([law.t0, law.t1]):
        x = states(law, PRIOR, t).astype(np.float32)
        every = jax.device_get(run(x, t))
        for v in jax.tree.leaves(every):
            assert v.dtype == np.float32 and np.all(np.isfinite(v))
        # The second term is the rounding of the network's output, amplified by V = (c^2 / a) J.
        a, c = (float(v) for v in law.coeffs(t))
        check(every[0][:2], exact(x, t)[:2], 1e-3 + 6e-7 * (c / a) ** 2)


def test_where_a_is_zero():
    """At t = 1 of the flow law, where a = 0 and x holds no information, guides stay finite."""
    law = Flow(t1=1.0)
    predict = PRIOR.predict(law)
    run = lambda x: [make(law, OPERATOR, Y, NOISE)(predict)(x, 1.0)[:2] for make in GUIDES]
    assert all(np.all(np.isfinite(v)) for v in jax.tree.leaves(jax.jit(run)(np.ones((2, D)))))
