"""Likelihoods in a fixed number of steps and in other variables, against closed densities."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closed_form import Gaussian, Mixture

from likelihood import Adams, log_likelihood
from likelihood.adams import GRADINGS, advance, lagrange_integrals, weights
from likelihood.divergence import exact, rademacher
from samplers import VARIABLES, Solver
from sde_lib import EDM, VE, VP, Flow, SubVP, example_keys

KEY = jax.random.key(0)
LAWS = {"vp": VP(), "subvp": SubVP(), "ve": VE(), "edm": EDM(), "flow": Flow()}
PLANE = Gaussian(np.array([0.4, -0.7]), np.array([[0.5, 0.2], [0.2, 0.3]]))
TWO = Mixture(np.array([0.3, 0.7]), np.array([[-1.0, 0.5], [0.8, -0.3]]), np.array([0.3, 0.5]))


def states(law, data, n=4):
    rng = np.random.default_rng(0)
    a, _, c = (float(v) for v in law.coeffs(jnp.asarray(law.t0)))
    x0 = data.draw(rng, n)
    return jnp.asarray(a * x0 + c * rng.standard_normal(x0.shape))


def errors(law, data, solver, x):
    """Of log p, with the true density at t1 in place of the prior."""
    end = lambda y: data.logp(law, y, law.t1)
    run = jax.jit(
        lambda x: log_likelihood(
            KEY, law, data.predict(law), x, divergence=exact(), solver=solver, prior_logp=end
        )
    )
    result = run(x)
    return result, np.asarray(result.logp - data.logp(law, x, law.t0))


@pytest.mark.parametrize("order", [1, 3, 6])
def test_weights_integrate_polynomials(order):
    """The predictor those of degree k - 1, the corrector of degree k; on uneven nodes, from the
    first step on with what there is."""
    us = 0.2 + 1.5 * np.linspace(0.0, 1.0, 10) ** 1.5
    first, second = weights(us, order)
    for degree in range(order + 1):
        f, area = us**degree, us ** (degree + 1) / (degree + 1)
        for i in range(9):
            there = min(order, i + 1)
            past = f[i - there + 1 : i + 1][::-1]
            if degree < there:
                assert first[i, :there] @ past == pytest.approx(area[i + 1] - area[i], rel=1e-10)
            if degree <= there:
                both = np.append(f[i + 1], past)
                assert second[i, : there + 1] @ both == pytest.approx(
                    area[i + 1] - area[i], rel=1e-10
                )
    assert np.all(first[0, 1:] == 0.0) and np.all(second[0, 2:] == 0.0)
    # Simpson's rule.
    np.testing.assert_allclose(
        lagrange_integrals(np.array([0, 0.5, 1]), 0, 1), [1 / 6, 2 / 3, 1 / 6]
    )


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_order_of_convergence(order, x64):
    """On y' = cos(u) y: order k + 1, that of the corrector, evaluated at the prediction. The nodes
    lie closer at the start, whose error of low order would else be all: with k = 4 it still falls
    faster than the rest."""
    ends = []
    for steps in (160, 320):
        us = 3.0 * np.linspace(0.0, 1.0, steps + 1) ** 2
        end = advance(lambda u, y: jnp.cos(u) * y, jnp.ones(()), us, order)
        assert end.nfe == steps + 1
        ends.append(abs(float(end.y) - np.exp(np.sin(3.0))))
    slope = np.log2(ends[0] / ends[1])
    assert abs(slope - (order + 1)) < 0.08 if order < 4 else 4.9 < slope < 6.0, (ends, slope)


@pytest.mark.parametrize("variable", VARIABLES)
@pytest.mark.parametrize("name", LAWS)
def test_every_law_and_variable(name, variable, x64):
    """Adaptive to 1e-6 and in many fixed steps: within 1e-4 nats per dimension of the truth, and
    the code that of the closed flow."""
    law, x = LAWS[name], states(LAWS[name], PLANE)
    if (name, variable) not in {("edm", "t"), ("flow", "t"), ("ve", "t")}:
        # In t these three need hundreds of steps or thousands, whence the other variables.
        result, error = errors(law, PLANE, Adams(160, variable=variable), x)
        assert np.max(np.abs(error)) < 2e-4 and result.nfe[0] == 161
    solver = Solver("dopri8", 1e-6, 1e-6, variable=variable)
    result, error = errors(law, PLANE, solver, x)
    assert np.max(np.abs(error)) < 2e-4 and not np.any(result.failed)
    latent = PLANE.flow_map(law, x, law.t0, law.t1)
    np.testing.assert_allclose(result.latent, latent, atol=1e-4 * float(law.prior_std()))


def test_few_steps_in_the_angle(x64):
    """32 evaluations are within 1e-3 nats a dimension on a mixture, where an adaptive solve over t
    to 1e-5, as the original's, takes more than twice as many."""
    law, x = VP(), states(VP(), TWO, 16)
    result, error = errors(law, TWO, Adams(31), x)
    assert np.max(np.abs(error)) < 2 * 1e-3 and result.nfe[0] == 32
    result, _ = errors(law, TWO, Solver("dopri5", 1e-5, 1e-5), x)
    assert np.mean(result.nfe) > 64


def test_data_of_the_size_given_need_one_step():
    """Gaussian data of standard deviation sigma_data do not move in the frame."""
    law, data = VE(), Gaussian.scalar(0.0, 0.6, 3)
    x = jnp.asarray(states(law, data), jnp.float32)
    for variable in ("lam", "angle"):
        _, error = errors(law, data, Adams(1, 1, variable, sigma_data=0.6), x)
        assert np.max(np.abs(error)) < 1e-4
        _, error = errors(law, data, Adams(1, 1, variable, sigma_data=0.3), x)
        assert np.min(np.abs(error)) > 1e-2


def test_fixed_steps_do_not_depend_on_the_batch():
    law, solver = VP(), Adams(12)
    x, keys = jnp.asarray(states(law, TWO, 5), jnp.float32), example_keys(0, jnp.arange(5))
    run = jax.jit(
        lambda k, x: log_likelihood(
            k, law, TWO.predict(law), x, divergence=rademacher(2), solver=solver
        )
    )
    whole, other = run(keys, x), run(keys, x.at[1:].multiply(3.0))
    np.testing.assert_array_equal(whole.logp[0], other.logp[0])
    np.testing.assert_array_equal(whole.latent[0], other.latent[0])
    part = run(keys[1:3], x[1:3])
    np.testing.assert_allclose(part.logp, whole.logp[1:3], rtol=1e-5)
    broken = run(keys, x.at[2].set(jnp.nan))
    np.testing.assert_array_equal(broken.failed, np.arange(5) == 2)
    np.testing.assert_array_equal(np.isnan(broken.logp), np.arange(5) == 2)
    np.testing.assert_array_equal(broken.logp[0], whole.logp[0])


def test_refusals():
    law, x = VP(), jnp.zeros((2, 2))

    def run(solver, law=law):
        return log_likelihood(
            KEY, law, PLANE.predict(law), x, divergence=rademacher(), solver=solver
        )

    with pytest.raises(ValueError, match="steps is 0"):
        run(Adams(0))
    with pytest.raises(ValueError, match="order is 9; it must lie between 1 and 8"):
        run(Adams(4, 9))
    with pytest.raises(ValueError, match="variable is 'u'"):
        run(Adams(4, variable="u"))
    with pytest.raises(ValueError, match="laid out when the program is built"):
        jax.jit(lambda law: run(Adams(4), law).logp)(law)
    assert set(GRADINGS) == set(VARIABLES)
