"""Likelihoods in fixed steps and in other variables, against densities in closed form."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from any_law import AnyLaw
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
    a, c = (float(v) for v in law.coeffs(jnp.asarray(law.t0)))
    x0 = data.draw(rng, n)
    return a * x0 + c * rng.standard_normal(x0.shape)


def with_true_end(law, data, solver, x):
    """Return log p with the true density at t1 in place of the prior."""
    end = lambda y: data.logp(law, y, law.t1)
    return log_likelihood(
        KEY, law, data.predict(law), x, divergence=exact(), solver=solver, prior_logp=end
    )


def errors(law, data, solver, x):
    result = jax.device_get(jax.jit(partial(with_true_end, law, data, solver))(x))
    return result, result.logp - data.logp(law, x, law.t0)


@pytest.mark.parametrize("order", [1, 3, 6])
def test_weights_integrate_polynomials(order):
    """The predictor integrates polynomials of degree k - 1 exactly, the corrector of degree k.

    The nodes are uneven. The first steps have a lower k, because they have fewer past values.
    """
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
    """On y' = cos(u) y the order is k + 1, that of the corrector evaluated at the prediction.

    The nodes lie closer together at the start; otherwise the low order of the first steps would
    dominate the error. With k = 4 the error of the start still falls faster than the rest.
    """

    @jax.jit
    def solve():
        grids = (3.0 * np.linspace(0.0, 1.0, steps + 1) ** 2 for steps in (160, 320))
        ends = [advance(lambda u, y: jnp.cos(u) * y, jnp.ones(()), us, order) for us in grids]
        return [end.y for end in ends], [end.nfe for end in ends]

    ends, nfe = jax.device_get(solve())
    assert nfe == [161, 321]
    ends = np.abs(np.array(ends) - np.exp(np.sin(3.0)))
    slope = np.log2(ends[0] / ends[1])
    assert abs(slope - (order + 1)) < 0.08 if order < 4 else 4.9 < slope < 6.0, (ends, slope)


@pytest.fixture(scope="module")
def adaptive():
    """Return `(variable, which, x) -> LogLik` to 1e-6, with a program for each variable."""

    @partial(jax.jit, static_argnums=0)
    def run(variable, which, x):
        solver = Solver("dopri8", 1e-6, 1e-6, variable=variable)
        return with_true_end(AnyLaw(LAWS.values(), which), PLANE, solver, x)

    return run


@pytest.mark.parametrize("variable", VARIABLES)
@pytest.mark.parametrize("name", LAWS)
def test_every_law_and_variable(name, variable, adaptive, x64):
    """Adaptive solves are within 1e-4 nats per dimension of the truth.

    The latent is that of the closed-form flow.
    """
    law, x = LAWS[name], states(LAWS[name], PLANE)
    result = jax.device_get(adaptive(variable, [*LAWS].index(name), x))
    assert np.max(np.abs(result.logp - PLANE.logp(law, x, law.t0))) < 2e-4
    assert not np.any(result.failed)
    latent = PLANE.flow_map(law, x, law.t0, law.t1)
    np.testing.assert_allclose(result.latent, latent, atol=1e-4 * float(law.prior_std()))


# Each law and each variable occurs at least once, and the angle, the default, twice. Over t, EDM,
# flow and VE would need hundreds or thousands of steps, so they have other variables.
FIXED = [("vp", "t"), ("subvp", "lam"), ("ve", "angle"), ("edm", "lam"), ("flow", "angle")]


@pytest.mark.parametrize(("name", "variable"), FIXED)
def test_many_fixed_steps(name, variable, x64):
    """160 fixed steps are within 1e-4 nats per dimension of the truth, as adaptive solves are."""
    law, x = LAWS[name], states(LAWS[name], PLANE)
    result, error = errors(law, PLANE, Adams(160, variable=variable), x)
    assert np.max(np.abs(error)) < 2e-4 and result.nfe[0] == 161
    latent = PLANE.flow_map(law, x, law.t0, law.t1)
    np.testing.assert_allclose(result.latent, latent, atol=1e-4 * float(law.prior_std()))


def test_few_steps_in_the_angle(x64):
    """32 evaluations over the angle are within 1e-3 nats per dimension on a mixture.

    An adaptive solve over t to 1e-5, as in the original, takes more than twice as many.
    """
    law, x = VP(), states(VP(), TWO, 16)
    result, error = errors(law, TWO, Adams(31), x)
    assert np.max(np.abs(error)) < 2 * 1e-3 and result.nfe[0] == 32
    result, _ = errors(law, TWO, Solver("dopri5", 1e-5, 1e-5), x)
    assert np.mean(result.nfe) > 64


def test_data_of_the_size_given_need_one_step():
    """One step is exact for Gaussian data of std sigma_data, which do not move in this frame."""
    law, data = VE(), Gaussian.scalar(0.0, 0.6, 3)
    x = np.float32(states(law, data))

    @jax.jit
    def run(x):
        found = {}
        for variable in ("lam", "angle"):
            for size in (0.6, 0.3):
                solver = Adams(1, 1, variable, sigma_data=size)
                found[variable, size] = with_true_end(law, data, solver, x).logp
        return found

    for (_, size), logp in jax.device_get(run(x)).items():
        error = np.abs(logp - data.logp(law, x, law.t0))
        assert np.max(error) < 1e-4 if size == 0.6 else np.min(error) > 1e-2


def test_fixed_steps_do_not_depend_on_the_batch():
    """log p of an example does not depend on the order or on the other examples of its batch."""
    law, solver = VP(), Adams(12)
    x, keys = np.float32(states(law, TWO, 5)), example_keys(0, np.arange(5))

    @jax.jit
    def run(order, x):
        return log_likelihood(
            keys[order], law, TWO.predict(law), x, divergence=rademacher(2), solver=solver
        )

    run_of = lambda order, x: jax.device_get(run(np.array(order), x))
    scaled, broken = x.copy(), x.copy()
    scaled[1:] *= 3.0
    broken[2] = np.nan
    whole, other = run_of([0, 1, 2, 3, 4], x), run_of([0, 1, 2, 3, 4], scaled)
    np.testing.assert_array_equal(whole.logp[0], other.logp[0])
    np.testing.assert_array_equal(whole.latent[0], other.latent[0])
    order = [1, 2, 4, 0, 3]
    np.testing.assert_allclose(run_of(order, x[order]).logp, whole.logp[order], rtol=1e-5)
    broken = run_of([0, 1, 2, 3, 4], broken)
    np.testing.assert_array_equal(broken.failed, np.arange(5) == 2)
    np.testing.assert_array_equal(np.isnan(broken.logp), np.arange(5) == 2)
    np.testing.assert_array_equal(broken.logp[0], whole.logp[0])


def test_refusals():
    law, x = VP(), np.zeros((2, 2), np.float32)

    def run(solver, law=law):
        predict = PLANE.predict(law)
        return jax.eval_shape(
            lambda x: (
                log_likelihood(KEY, law, predict, x, divergence=rademacher(), solver=solver).logp
            ),
            x,
        )

    with pytest.raises(ValueError, match="steps is 0"):
        run(Adams(0))
    with pytest.raises(ValueError, match="order is 9; it must lie between 1 and 8"):
        run(Adams(4, 9))
    with pytest.raises(ValueError, match="variable is 'u'"):
        run(Adams(4, variable="u"))
    with pytest.raises(ValueError, match="laid out when the program is built"):
        jax.eval_shape(lambda law: run(Adams(4), law), law)
    assert set(GRADINGS) == set(VARIABLES)
