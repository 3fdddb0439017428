"""log p(x | cond) and codes given cond, for Gaussian data with mean and spread given by cond."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm

from likelihood import DIVERGENCES, Adams, elbo_continuous, log_likelihood
from likelihood.latents import decode, encode
from samplers import Solver
from sde_lib import VP, expand
from sde_lib.prediction import prediction_of

LAW, EPS = VP(), 0.01
X = np.float32([[0.5, -0.2], [0.5, -0.2], [-1.0, 0.3]])
COND = {"mean": np.float32([-0.5, 0.4, 1.0]), "std": np.float32([0.4, 0.7, 1.3])}
OTHER = {"mean": np.float32([0.8, -0.6, 0.0]), "std": np.float32([0.9, 0.5, 0.6])}
SOLVERS = {"adaptive": Solver(variable="angle"), "fixed": Adams(64)}


def predict(x, t, cond):
    a, c = LAW.coeffs(jnp.broadcast_to(t, x.shape[:1]))
    gain = expand(a * cond["std"] ** 2 / (a**2 * cond["std"] ** 2 + c**2), x)
    mean = expand(cond["mean"], x)
    x0 = mean + gain * (x - expand(a, x) * mean)
    return prediction_of(LAW, x, t, x0, (x - expand(a, x) * x0) / expand(c, x))


def at(t, cond):
    """Return mean and standard deviation of `x_t | cond`, `(B, 1)`."""
    a, c = (float(v) for v in LAW.coeffs(jnp.asarray(t)))
    return a * cond["mean"][:, None], np.sqrt((a * cond["std"]) ** 2 + c**2)[:, None]


@pytest.mark.parametrize("name", SOLVERS)
def test_the_density_of_each_given_its_own(name):
    given = {"divergence": DIVERGENCES["exact"](), "solver": SOLVERS[name], "eps": EPS}
    run = lambda x, cond: log_likelihood(jax.random.key(0), LAW, predict, x, cond=cond, **given)
    found = jax.jit(run)(X, COND)
    # The flow ends in the law of x at t1, and the prior there is N(0, 1).
    mean, std = at(EPS, COND)
    top, spread = at(LAW.t1, COND)
    moved = top + spread * (X - mean) / std
    expected = (norm.logpdf(moved) + np.log(spread / std)).sum(axis=1)
    np.testing.assert_allclose(found.logp, expected, atol=2e-3)
    np.testing.assert_allclose(found.latent, moved, atol=2e-3)


@pytest.mark.parametrize("name", SOLVERS)
def test_a_code_decoded_under_another_condition_is_a_translation(name):
    """Decoding under another condition maps one Gaussian onto the other.

    The formula includes the difference of their means at t1.
    """

    def run(x, cond, other):
        code = encode(LAW, predict, x, SOLVERS[name], EPS, cond=cond)
        return decode(LAW, predict, code.z, SOLVERS[name], EPS, cond=other).x

    (m, s), (m1, s1) = at(EPS, COND), at(LAW.t1, COND)
    (n, r), (n1, r1) = at(EPS, OTHER), at(LAW.t1, OTHER)
    code = m1 + s1 * (X - m) / s
    found = jax.jit(run)(X, COND, OTHER)
    np.testing.assert_allclose(found, n + r * (code - n1) / r1, atol=5e-3)


def test_the_bound_of_each_given_its_own():
    """With exact predictions the bound is log p of the data, up to the noise at eps, c = 0.01."""
    run = lambda x, cond: elbo_continuous(
        jax.random.key(0), LAW, predict, x, num_times=8192, eps=1e-3, cond=cond
    )
    found = jax.jit(run)(X, COND)
    expected = norm.logpdf(X, COND["mean"][:, None], COND["std"][:, None]).sum(axis=1)
    assert np.all(found.stderr < 0.1)
    np.testing.assert_array_less(np.abs(found.logp - expected), 4.5 * found.stderr + 0.01)
