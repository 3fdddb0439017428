"""Decoders of levels and points with known probabilities, whose law at eps is a known mixture."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closed_form import Gaussian, Mixture
from scipy.integrate import quad
from scipy.special import log_softmax, logsumexp
from scipy.stats import norm

from likelihood import (
    DIVERGENCES,
    LogLik,
    closed_log_likelihood,
    expected_log_decoder,
    importance_weighted,
    log_decoder,
    log_likelihood,
    noised_log_density,
)
from samplers import Solver
from sde_lib import VE, VP, SubVP, example_keys

KEY = jax.random.key(0)
weighted = lambda logp: jax.device_get(jax.jit(importance_weighted)(logp))
LAW, EPS = VP(), 0.12  # c = 0.38: neighbouring levels overlap
VALUES = np.array([-1.0, -0.3, 0.2, 1.0])
UNEVEN = np.array([0.1, 0.5, 0.15, 0.25])
X, DX = np.linspace(-5, 5, 20001, retstep=True)


def numbers(law, t):
    with jax.enable_x64(True):
        a, c = law.coeffs(jnp.asarray(t, jnp.float64))
        return float(a), float(c)


def exactly(law, data, eps):
    """Return `(key, x) -> LogLik` from a density in closed form."""

    def log_p(key, x):
        del key
        nothing = jnp.zeros(x.shape[:1])
        return LogLik(data.logp(law, x, eps), nothing, x, nothing, nothing > 0)

    return log_p


def levels(P):
    return Mixture(P, VALUES[:, None], np.zeros(4))


def kernels(law=LAW, eps=EPS):
    """Return `N(x; a y_u, c^2)` on the grid X, `(4, 20001)`."""
    a, c = numbers(law, eps)
    return norm.pdf(X[None], a * VALUES[:, None], c)


def draws(P, n, num_draws=1, law=LAW, eps=EPS):
    """Return draws `(num_draws, 4, n)` of the bound for n examples of each level."""
    u = np.repeat(np.arange(4), n)[:, None]
    log_p = exactly(law, levels(P), eps)
    run = jax.jit(
        lambda u: (
            closed_log_likelihood(KEY, law, log_p, VALUES, u, eps=eps, num_draws=num_draws).logp
        )
    )
    return np.asarray(run(u)).reshape(num_draws, 4, n)


@jax.jit
def log_decoder_at(law, eps, values, u, x):
    """Return the log decoder at one common time, and at one time per example."""
    times = jnp.full(x.shape[:1], eps)
    return log_decoder(law, eps, values, u, x), log_decoder(law, times, values, u, x)


@pytest.mark.parametrize("law, eps", [(VP(), 1e-5), (VE(), 1e-5), (SubVP(), 1e-3)])
def test_log_decoder_in_float32_at_a_tiny_c(law, eps):
    """The log decoder of 256 levels is right in float32 for c of 1e-3, 1e-2 and 1e-4.

    States lie at their level, half way to the next one, and far away. The rounding of `x - a y` is
    1e-7; in the exponent it is divided by c and multiplied by the distance in units of c.
    """
    rng, values = np.random.default_rng(0), np.linspace(-1, 1, 256).astype(np.float32)
    a, c = numbers(law, eps)
    u = rng.integers(0, 255, (3, 4, 2, 3)).astype(np.uint8)
    shift = np.array([0.0, 0.5, 40.0]).reshape(3, 1, 1, 1) * 2 / 255
    noise = c * np.minimum(rng.standard_normal(u.shape), 2.0)
    x = (a * (values[u] + shift) + noise).astype(np.float32)
    logits = -0.5 * ((x[..., None] - a * values.astype(np.float64)) / c) ** 2
    truth = np.take_along_axis(log_softmax(logits, -1), u[..., None].astype(int), -1)
    truth = truth.sum((1, 2, 3, 4))
    found, each = log_decoder_at(law, np.float32(eps), values, u, x)
    assert found.shape == (3,) and found.dtype == np.float32
    np.testing.assert_allclose(found, truth, rtol=2e-3, atol=1e-2)
    assert truth[2] < -1e4 and np.all(np.isfinite(found))
    np.testing.assert_allclose(each, found, rtol=1e-4, atol=1e-2)  # rounding, as above


def test_decoder_is_a_law_of_levels(x64):
    x = np.random.default_rng(0).standard_normal((5, 1))
    every = jax.jit(
        lambda x: [log_decoder(LAW, EPS, VALUES, np.full((5, 1), u), x) for u in range(4)]
    )(x)
    np.testing.assert_allclose(logsumexp(every, axis=0), 0.0, atol=1e-12)


expected = jax.jit(expected_log_decoder)


@pytest.mark.parametrize("eps", [1e-3, 0.05, 0.12, 0.6])
def test_expected_log_decoder_against_scipy(eps, x64):
    a, c = numbers(LAW, eps)

    def integrand(z, u):
        logits = -0.5 * ((a * (VALUES[u] - VALUES) + c * z) / c) ** 2
        return norm.pdf(z) * log_softmax(logits)[u]

    truth = [quad(integrand, -9, 9, args=(u,), epsabs=1e-12, limit=200)[0] for u in range(4)]
    found = expected(LAW, eps, VALUES)
    np.testing.assert_allclose(found, truth, rtol=1e-9, atol=1e-11)


def test_bound_is_tight_where_the_decoder_is_the_posterior(x64):
    """If all levels are equally likely, every single draw is `log P(u)`, for any noise."""
    for law, eps in ((LAW, EPS), (VE(), 0.4), (SubVP(), 0.3)):
        found = draws(np.full(4, 0.25), 16, 2, law, eps)
        np.testing.assert_allclose(found, np.log(0.25), rtol=1e-10)


def test_gap_is_the_divergence_of_decoder_and_posterior(x64):
    """For unequal levels, the bound is below the mean of `log P` by `E_x KL(posterior | decoder)`.

    The mean of each level equals a quadrature, and is below the model's own log P.
    """
    n, q = 40_000, kernels()
    found = draws(UNEVEN, n)[0]
    error = found.std(axis=1) / n**0.5
    posterior = UNEVEN[:, None] * q / (UNEVEN @ q)
    decoder = q / q.sum(0)
    kl = np.sum(UNEVEN @ q * np.sum(posterior * np.log(posterior / decoder), axis=0)) * DX
    log_model = np.log(np.sum(UNEVEN @ q * decoder, axis=1) * DX)
    # Definition of the bound: log p_eps + log p(u | x) - log q(x | u).
    each = np.sum(q * (np.log(UNEVEN @ q) + np.log(decoder) - np.log(q)), axis=1) * DX
    assert np.all(abs(found.mean(axis=1) - each) < 4 * error)
    gap = UNEVEN @ (np.log(UNEVEN) - found.mean(axis=1))
    error_of_gap = np.sqrt(np.sum((UNEVEN * error) ** 2))
    assert abs(gap - kl) < 4 * error_of_gap
    assert kl > 20 * error_of_gap, "a gap of this size must be seen"
    assert np.all(each < log_model) and np.all(found.mean(axis=1) < log_model - 4 * error)


def test_many_draws_find_the_probability_of_the_model(x64):
    """`importance_weighted` over 256 draws gives `P(u) = int p_eps(x) p(u | x) dx`."""
    q, n = kernels(), 300
    truth = np.log(np.sum(UNEVEN @ q * (q / q.sum(0)), axis=1) * DX)
    result = weighted(draws(UNEVEN, n, 256).reshape(256, -1))
    z = ((result.logp.reshape(4, n) - truth[:, None]) / result.stderr.reshape(4, n)).ravel()
    # The bias of 256 draws is half of their variance, at most a fortieth of their error.
    assert np.max(result.stderr) < 0.06
    assert abs(z.mean()) < 4 / z.size**0.5 and abs(z.var() - 1.0) < 4 * (2 / z.size) ** 0.5


def test_density_of_continuous_data(x64):
    """For Gaussian data the mean of the draws has a closed form, below the model's log density.

    The model is `N(m, S + 2 (c / a)^2)`.
    """
    data = Gaussian.scalar(0.4, 0.7, 2)
    law, eps, n = VP(), 0.2, 400
    a, c = numbers(law, eps)
    points = np.array([[0.0, 0.5], [1.2, -0.4], [2.0, 2.0]])
    x = np.repeat(points, n, axis=0)
    run = jax.jit(
        lambda x: (
            noised_log_density(KEY, law, exactly(law, data, eps), x, eps=eps, num_draws=128).logp
        )
    )
    found = run(x)
    s2 = 0.7**2 + (c / a) ** 2
    # The mean of the draws is E log N(x + c z / a; m, s2).
    mean = norm.logpdf(points, 0.4, s2**0.5).sum(1) - (c / a) ** 2 / s2
    each = np.asarray(found).reshape(128, 3, n)
    error = each.std(axis=(0, 2)) / (128 * n) ** 0.5
    assert np.all(abs(each.mean(axis=(0, 2)) - mean) < 4 * error)
    truth = norm.logpdf(points, 0.4, (s2 + (c / a) ** 2) ** 0.5).sum(1)
    assert np.all(mean < truth) and np.all(40 * error < -2 * np.log(a)), "D log a must be seen"
    result = weighted(found)
    z = (result.logp.reshape(3, n) - truth[:, None]) / result.stderr.reshape(3, n)
    assert np.all(abs(np.mean(z, axis=1)) < 4 / n**0.5 + 0.5 * np.max(result.stderr))


@pytest.mark.slow
def test_with_the_flow_as_density_in_float32():
    """With log p by the flow, draws for images equal those of the closed form to 3e-3 nats."""
    data, eps = Gaussian.scalar(0.0, 0.6, 12), 0.01
    # The Jacobian is a multiple of the identity, so one probe gives the exact trace.
    flow = lambda key, x: log_likelihood(
        key, LAW, data.predict(LAW), x,
        divergence=DIVERGENCES["rademacher"](), eps=eps, solver=Solver("heun", 1e-4, 1e-4),
    )  # fmt: skip
    values = np.linspace(-1, 1, 17, dtype=np.float32)
    u = np.random.default_rng(0).integers(0, 17, (3, 2, 2, 3)).astype(np.uint8)

    def run(log_p):
        draw = lambda keys, u: closed_log_likelihood(
            keys, LAW, log_p, values, u, eps=eps, num_draws=2
        )
        return lambda order: jax.device_get(jax.jit(draw)(example_keys(0, order), u[order]))

    solved, closed = run(flow), run(exactly(LAW, data, eps))
    given, order = np.arange(3), np.array([2, 0, 1])
    result, plain = solved(given), closed(given)
    assert result.logp.shape == (2, 3) and result.latent.shape == (2, 3, 2, 2, 3)
    np.testing.assert_allclose(result.logp, plain.logp, atol=3e-3)
    assert len(np.unique(result.logp)) == 6 and not np.any(result.failed)
    # Each example draws from its own key.
    np.testing.assert_allclose(closed(order).logp, plain.logp[:, order], rtol=1e-5)


def test_what_is_refused():
    values, x = np.float32(VALUES), np.zeros((2, 3), np.float32)
    with pytest.raises(ValueError, match="integers"):
        log_decoder(LAW, EPS, values, x, x)
    with pytest.raises(ValueError, match="must be equal"):
        log_decoder(LAW, EPS, values, np.zeros((2, 1), int), x)
    with pytest.raises(ValueError, match="one number for each level"):
        log_decoder(LAW, EPS, values[None], x.astype(int), x)
    with pytest.raises(ValueError, match="integers"):
        closed_log_likelihood(KEY, LAW, None, values, x)
    log_p = exactly(LAW, levels(UNEVEN), EPS)
    beyond = jax.jit(lambda u: closed_log_likelihood(KEY, LAW, log_p, values, u, eps=EPS).logp)
    np.testing.assert_array_equal(np.isnan(beyond(np.array([[0], [4]]))), [[False, True]])


def test_integer_values_are_numbers():
    """Integer values 0 to 3 give the same as floats, at a time that is not an integer.

    The truth is a sum over a grid of the noise in float64.
    """
    a, c = numbers(LAW, EPS)
    z = np.linspace(-8.0, 8.0, 2001)
    logits = -0.5 * ((a * np.arange(4)[:, None, None] + c * z[:, None] - a * np.arange(4)) / c) ** 2
    each = log_softmax(logits, axis=-1)[np.arange(4), :, np.arange(4)]
    truth = each @ norm.pdf(z) * (z[1] - z[0])
    values, u = jnp.arange(4), jnp.arange(4)[:, None]
    np.testing.assert_allclose(expected_log_decoder(LAW, EPS, values), truth, rtol=1e-4)
    flat = exactly(LAW, Mixture(np.full(4, 0.25), np.arange(4.0)[:, None], np.zeros(4)), EPS)
    found = closed_log_likelihood(KEY, LAW, flat, values, u, eps=EPS).logp
    np.testing.assert_allclose(found, np.log(0.25), rtol=1e-4)
