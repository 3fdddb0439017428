"""Gradients of log p through the solve: with respect to x the score, to a parameter its formula."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closed_form import Gaussian

from likelihood import Adams, log_likelihood
from likelihood.divergence import exact, rademacher
from samplers import Solver
from sde_lib import VP, parametrize
from sde_lib.gaussian import Moments, gaussian_predict

LAW, KEY = VP(), jax.random.key(0)
PLANE = Gaussian(np.array([0.4, -0.7]), np.array([[0.5, 0.2], [0.2, 0.3]]))
SOLVERS = {
    "checkpoint": Solver(rtol=1e-6, atol=1e-6, adjoint="checkpoint", max_steps=256),
    "backsolve": Solver(rtol=1e-6, atol=1e-6, adjoint="backsolve", max_steps=256),
    "reversible": Solver("reversible_heun", 1e-4, 1e-4, 2048, "angle", adjoint="backsolve"),
    "adams": Adams(64),
}
POINTS = np.array([[0.1, 0.3], [-0.9, -0.4]])


def logp(predict, x, solver):
    """With the density of the data's own law at t1, so that the score is known at eps."""
    end = lambda y: PLANE.logp(LAW, y, LAW.t1)
    return log_likelihood(
        KEY, LAW, predict, x, divergence=exact(), solver=solver, prior_logp=end
    ).logp


@pytest.mark.parametrize("name", SOLVERS)
def test_with_respect_to_x_it_is_the_score(name, x64):
    predict = PLANE.predict(LAW)
    found = jax.jit(jax.grad(lambda x: jnp.sum(logp(predict, x, SOLVERS[name]))))(
        jnp.asarray(POINTS)
    )
    truth = predict(jnp.asarray(POINTS), jnp.asarray(LAW.t0)).score
    tolerance = 2e-2 if name == "reversible" else 2e-4
    np.testing.assert_allclose(found, truth, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", SOLVERS)
def test_with_respect_to_a_parameter(name, x64):
    """The mean of Gaussian data of unit variance, whose law at t1 is the prior N(0, 1) up to 0.5 %:
    `d log p / d m = a (x - a m) / (a^2 + c^2)`, less the part that the prior does not see."""
    std = Moments(np.zeros(2), np.eye(2), np.ones(2))

    def total(mean, solver):
        predict = gaussian_predict(LAW, std._replace(mean=mean))
        return jnp.sum(
            log_likelihood(
                KEY, LAW, predict, jnp.asarray(POINTS), divergence=exact(), solver=solver
            ).logp
        )

    mean = jnp.asarray([0.3, -0.2])
    found = jax.jit(jax.grad(total), static_argnums=1)(mean, SOLVERS[name])
    a = lambda t: LAW.coeffs(jnp.asarray(t)).a
    # Under VP unit variances stay: x(t1) = x + (a1 - a0) m, and its density is the prior's.
    end = POINTS + (a(LAW.t1) - a(LAW.t0)) * mean
    truth = jnp.sum((a(LAW.t0) - a(LAW.t1)) * end, axis=0)
    tolerance = 2e-2 if name == "reversible" else 2e-4
    np.testing.assert_allclose(found, truth, rtol=tolerance, atol=tolerance)


def test_memory_of_fixed_steps_does_not_hold_the_network():
    """64 steps of a network whose inner arrays are 4096 wide: what is kept is the states, of 16."""
    inner = jax.random.normal(jax.random.key(1), (16, 4096)) / 4.0
    outer = jax.random.normal(jax.random.key(2), (4096, 16)) / 64.0
    x = jax.random.normal(jax.random.key(3), (32, 16))

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
        logp(PLANE.predict(LAW), jnp.asarray(POINTS), solver)
    run = lambda x: jnp.sum(logp(PLANE.predict(LAW), x, Solver()))
    with pytest.raises(ValueError, match="Reverse-mode differentiation does not work"):
        jax.grad(run)(jnp.asarray(POINTS))
