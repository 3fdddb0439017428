"""Gradients of log p through the solve: by x (the score), and by a parameter (a known formula)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closed_form import Gaussian

from likelihood import Adams, log_likelihood
from likelihood.divergence import exact, rademacher
from samplers import Solver
from sde_lib import VP, parametrize

LAW, KEY = VP(), jax.random.key(0)
PLANE = Gaussian(np.array([0.4, -0.7]), np.array([[0.5, 0.2], [0.2, 0.3]]))
SOLVERS = {
    "checkpoint": Solver(rtol=1e-6, atol=1e-6, adjoint="checkpoint", max_steps=256),
    "backsolve": Solver(rtol=1e-6, atol=1e-6, adjoint="backsolve", max_steps=256),
    "reversible": Solver("reversible_heun", 1e-4, 1e-4, 2048, "angle", adjoint="backsolve"),
    "adams": Adams(64),
}
POINTS = np.array([[0.1, 0.3], [-0.9, -0.4]])


def a_and_c(t):
    a, c = LAW.coeffs(np.float64(t))
    return float(a), float(c)


def logp(mean, x, solver):
    """Return log p of Gaussian data with the given mean and PLANE's covariance.

    The density of PLANE at t1 replaces the prior, so that log p has a closed form.
    """
    predict = Gaussian(mean, PLANE.cov).predict(LAW)
    end = lambda y: PLANE.logp(LAW, y, LAW.t1)
    return log_likelihood(
        KEY, LAW, predict, x, divergence=exact(), solver=solver, prior_logp=end
    ).logp


@pytest.mark.parametrize("name", SOLVERS)
def test_they_are_the_score_and_the_formula(name, x64):
    """The gradient by x is the score, and the gradient by the mean m has a closed form.

    The flow with mean m takes x to `y = a1 m + R (x - a0 m)`, where R maps the covariance at eps to
    that at t1. log p contains `log N(y; a1 m0, C1)` with a fixed m0. So the gradient by m at m = m0
    is `-(a1 - R a0)^T C1^-1 (y - a1 m0)`.
    """
    total = lambda mean, x: jnp.sum(logp(mean, x, SOLVERS[name]))
    of_mean, of_x = jax.jit(jax.grad(total, argnums=(0, 1)))(PLANE.mean, POINTS)
    score = PLANE.score(LAW)(POINTS, LAW.t0)
    (a0, c0), (a1, c1) = a_and_c(LAW.t0), a_and_c(LAW.t1)
    L, U = np.linalg.eigh(PLANE.cov)
    v0, v1 = a0**2 * L + c0**2, a1**2 * L + c1**2
    R = (U * np.sqrt(v1 / v0)) @ U.T
    end = (POINTS - a0 * PLANE.mean) @ R.T
    slope = np.linalg.solve((U * v1) @ U.T, end.T).T @ (a1 * np.eye(2) - a0 * R)
    tolerance = 2e-2 if name == "reversible" else 2e-4
    np.testing.assert_allclose(of_x, score, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(of_mean, -slope.sum(0), rtol=tolerance, atol=tolerance)


def test_memory_of_fixed_steps_does_not_hold_the_network():
    """The gradient through fixed steps keeps the states and not the inside of the network.

    States have 16 values, inner arrays of the network 4096.
    """
    rng = np.random.default_rng(0)
    draw = lambda *shape: rng.standard_normal(shape).astype(np.float32)
    inner, outer, x = draw(16, 4096) / 4.0, draw(4096, 16) / 64.0, draw(32, 16)

    def planned(steps):
        predict = parametrize("eps", LAW, lambda x, t: jnp.tanh(x @ inner) @ outer)
        run = lambda x: jnp.sum(
            log_likelihood(KEY, LAW, predict, x, divergence=rademacher(), solver=Adams(steps)).logp
        )
        return jax.jit(jax.grad(run)).lower(x).compile().memory_analysis().temp_size_in_bytes

    of_a_step = 32 * 4096 * 4
    assert planned(64) - planned(8) < 4 * of_a_step < 56 * of_a_step


def test_no_way_back():
    solver = Solver(adjoint="adjoint")
    with pytest.raises(ValueError, match="adjoint is 'adjoint'; it must be one of forward, check"):
        jax.eval_shape(lambda x: logp(PLANE.mean, x, solver), POINTS)
    run = lambda x: jnp.sum(logp(PLANE.mean, x, Solver()))
    with pytest.raises(ValueError, match="Reverse-mode differentiation does not work"):
        jax.eval_shape(jax.grad(run), POINTS)
