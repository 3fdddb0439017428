"""Kernels (the law of a step) of stochastic methods, against Bayes' rule for data at one point."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm

from editing import regional
from guidance import redrawn
from samplers import (
    PREDICTORS,
    Span,
    State,
    ancestral,
    chain,
    ddim,
    dpm_multistep,
    euler_maruyama,
    langevin,
    reverse_diffusion,
)
from samplers.steps.mean_reverting import posterior
from sde_lib import VP, MeanReverting, parametrize, parametrize_given

pytestmark = pytest.mark.usefixtures("x64")
KEY = jax.random.key(0)
LAW = VP()
POINT = 0.7
T, S = 0.6, 0.45
X = np.linspace(-2.0, 2.0, 6).reshape(2, 3)
PREDICT = parametrize("x0", LAW, lambda x, cond: jnp.full_like(x, POINT))
# Methods whose step is the exact law of x_s given x_t and x0.
EXACT = {
    "ancestral": ancestral(LAW),
    "ddim": ddim(LAW, 1.0),
    "dpm_multistep": dpm_multistep(LAW, 1, eta=1.0),
    "regional": regional(LAW, 1.0),
    "chain": chain(ancestral(LAW)),
}


def numbers(law, t):
    a, c = law.coeffs(t)
    return float(a), float(c)


def bayes(law, point):
    """Return mean and std of x_s given `x_t = X` and `x0 = point`, by Bayes' rule.

    The law of x_s is proportional to N(a_s x0, c_s^2) times the forward kernel.
    """
    (a_s, c_s), (a_t, c_t) = numbers(law, S), numbers(law, T)
    r = a_t / a_s
    q2 = c_t**2 - (r * c_s) ** 2
    variance = 1.0 / (1.0 / c_s**2 + r**2 / q2)
    return variance * (a_s * point / c_s**2 + r * X / q2), np.sqrt(variance)


@functools.cache
def found():
    """Return for each method mean, std, a draw, its log density, and the key's standard noise."""

    @jax.jit
    def run(x):
        span, rows = Span(jnp.asarray(T), jnp.asarray(S)), {}
        for name, method in EXACT.items():
            state = method.init(x, span.t)
            kernel = method.kernel(PREDICT, state, span)
            drawn = method.step(KEY, PREDICT, state, span).x
            std = jnp.broadcast_to(kernel.std, x.shape)
            rows[name] = kernel.mean, std, drawn, kernel.log_density(drawn)
        return rows

    return {name: [np.asarray(v) for v in row] for name, row in run(X).items()}


@pytest.mark.parametrize("name", EXACT)
def test_mean_and_std_are_those_of_bayes(name):
    mean, std, drawn, logp = found()[name]
    truth, spread = bayes(LAW, POINT)
    np.testing.assert_allclose(mean, truth, rtol=1e-9)
    np.testing.assert_allclose(std, spread, rtol=1e-9)
    np.testing.assert_allclose(logp, norm.logpdf(drawn, truth, spread).sum(axis=1), rtol=1e-7)


def test_a_draw_has_the_noise_of_its_key():
    z = np.asarray(LAW.noise(KEY, jnp.asarray(X)))
    for name in ("ancestral", "ddim", "regional"):
        mean, std, drawn, _ = found()[name]
        np.testing.assert_allclose((drawn - mean) / std, z, rtol=1e-7, err_msg=name)


def test_methods_of_the_drift_alone():
    """The kernels of Euler-Maruyama and reverse diffusion equal their formulas."""
    (a_s, c_s), (a_t, c_t) = numbers(LAW, S), numbers(LAW, T)
    score = -(X - a_t * POINT) / c_t**2
    beta = 0.1 + T * 19.9
    r, h = a_t / a_s, T - S
    q2 = c_t**2 - (r * c_s) ** 2
    expected = {
        euler_maruyama: (X + h * beta * (0.5 * X + score), np.sqrt(h * beta)),
        reverse_diffusion: ((2.0 - r) * X + q2 * score, np.sqrt(q2)),
    }
    span = Span(jnp.asarray(T), jnp.asarray(S))
    for make, (mean, std) in expected.items():
        kernel = make(LAW).kernel(PREDICT, State(jnp.asarray(X)), span)
        np.testing.assert_allclose(kernel.mean, mean, rtol=1e-6, err_msg=make.__name__)
        np.testing.assert_allclose(np.ravel(kernel.std), std, rtol=1e-6, err_msg=make.__name__)


def test_the_kernel_of_a_mean_reverting_law_is_of_x():
    """The kernel is that of x = `w + (1 - a) mu`: Bayes' rule for w gives the mean, and the std."""
    law, mu = MeanReverting(), jnp.full(X.shape, 0.3)
    predict = parametrize_given("x0", law, lambda x, mu, cond: jnp.full_like(x, POINT), mu)
    method = posterior(law, mu)
    kernel = method.kernel(predict, State(jnp.asarray(X)), Span(jnp.asarray(T), jnp.asarray(S)))
    (a_s, c_s), (a_t, c_t) = numbers(law, S), numbers(law, T)
    r = a_t / a_s
    q2 = c_t**2 - (r * c_s) ** 2
    variance = 1.0 / (1.0 / c_s**2 + r**2 / q2)
    w = X - (1.0 - a_t) * 0.3
    mean = variance * (a_s * POINT / c_s**2 + r * w / q2) + (1.0 - a_s) * 0.3
    np.testing.assert_allclose(kernel.mean, mean, rtol=1e-6)
    np.testing.assert_allclose(np.ravel(kernel.std), np.sqrt(variance), rtol=1e-6)


def test_who_has_none():
    """Methods of an ODE, with several draws, or that move x after a draw have no kernel."""
    names = {name for name, make in PREDICTORS.items() if make(LAW).kernel is not None}
    assert names == {"euler_maruyama", "reverse_diffusion", "ancestral"}
    assert langevin(LAW).kernel is None and chain(ancestral(LAW), langevin(LAW)).kernel is None
    assert redrawn(lambda key: lambda predict: predict, ancestral(LAW)).kernel is None
