"""Guides in samplers: samples follow the posterior, with the stated number of evaluations.

On Gaussian data a deterministic sampler is an affine map of its start. The tests read off this map
at zero and the unit vectors, so mean and covariance of its samples are known without draws.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closed_form import Gaussian
from linear_gaussian import EPS, LAWS, NOISE, OPERATOR, PRIOR, A, D, Y, posterior
from scipy.integrate import quad
from scipy.special import dawsn

from guidance import annealed, dps, dps_steps, mmps, pigdm, redrawn
from operators import mask
from restoration import ddrm
from samplers import (
    Solver,
    Span,
    adaptive_ode,
    annealed_langevin,
    ddim,
    dpm_multistep,
    heun,
    make_grid,
    predictor_corrector,
    reverse_diffusion,
    sample,
    velocity_ab,
)
from sde_lib import EDM, VP, example_keys
from sde_lib.prediction import prediction_of

KEY = jax.random.key(0)
EXACT = posterior(PRIOR, A, Y, NOISE)


CORNERS = np.concatenate([np.zeros((1, D)), np.eye(D)])


def ends(run, law, eps):
    """Return mean and covariance of `run(x)` from exact starts, and the exact ones at eps."""
    out = np.asarray(jax.jit(run)(CORNERS))
    gain = out[1:] - out[:1]
    mean, cov = EXACT.moments(law, law.t1)
    return (out[0] + mean @ gain, gain.T @ cov @ gain), EXACT.moments(law, eps)


def check_moments(found, truth, tolerance):
    """Compare means in posterior standard deviations, and covariances relative to their size."""
    std = np.sqrt(np.diag(EXACT.cov))
    np.testing.assert_allclose(found[0] / std, truth[0] / std, rtol=0, atol=tolerance)
    scale = np.outer(std, std)
    np.testing.assert_allclose(found[1] / scale, truth[1] / scale, rtol=0, atol=tolerance)


@pytest.mark.parametrize("law", ["vp", "ve", "flow"])
def test_mmps_reaches_the_posterior(law, x64):
    """With MMPS, 60 steps of DPM-Solver++ 2M reach the posterior."""
    law, eps = LAWS[law], EPS[law]
    predict = mmps(law, OPERATOR, Y, NOISE)(PRIOR.predict(law))
    ts = make_grid("uniform_lam", law, 60, eps)
    run = lambda x: sample(KEY, predict, dpm_multistep(law), x, ts).x
    check_moments(*ends(run, law, eps), 0.01)


def test_mmps_in_few_steps(x64):
    """The fast recipe with MMPS reaches the posterior in 20 evaluations."""
    law = EDM()
    predict = mmps(law, OPERATOR, Y, NOISE)(PRIOR.predict(law))
    ts = make_grid("tangent", law, 20, 2e-3)
    run = lambda x: sample(KEY, predict, velocity_ab(law, 4), x, ts).x
    check_moments(*ends(run, law, 2e-3), 0.02)


def test_mmps_in_an_adaptive_solve(x64):
    law = VP()
    predict = mmps(law, OPERATOR, Y, NOISE)(PRIOR.predict(law))
    solve = adaptive_ode(law, 1e-3, Solver(rtol=1e-6, atol=1e-6, variable="lam"))
    check_moments(*ends(lambda x: solve(KEY, predict, x).x, law, 1e-3), 1e-4)


STOCHASTIC = {
    "dpm_multistep": lambda law: dpm_multistep(law, eta=1.0),
    "predictor-corrector": lambda law: predictor_corrector(
        reverse_diffusion(law), annealed_langevin(law, 0.16)
    ),
}


@pytest.mark.optimised
@pytest.mark.parametrize("name", STOCHASTIC)
def test_mmps_reaches_the_posterior_with_noise(name):
    """Stochastic samplers reach the posterior within four standard errors of 4000 samples."""
    law, n = VP(), 4000
    predict = mmps(law, OPERATOR, Y, NOISE)(PRIOR.predict(law))
    ts = make_grid("uniform_lam", law, 200, 1e-3)
    sampler = STOCHASTIC[name](law)

    @jax.jit
    def run(x):
        keys = example_keys(0, jnp.arange(n))
        return sample(keys, predict, sampler, x, ts).x

    x = np.asarray(run(np.random.default_rng(1).standard_normal((n, D))), np.float64)
    mean, cov = EXACT.moments(law, 1e-3)
    variance = np.diag(cov)
    assert np.all(np.abs(x.mean(0) - mean) < 4.0 * np.sqrt(variance / n))
    error = np.sqrt((np.outer(variance, variance) + cov**2) / n)
    assert np.all(np.abs(np.cov(x.T) - cov) < 4.0 * error)


@pytest.mark.parametrize("law", ["subvp", "edm", "flow"])
def test_dps_is_too_sure_by_the_formula(law, x64):
    """DPS gives a scalar Gaussian a variance that is too small, by a closed form of its flow.

    In `w = s^2 + sigma^2`, with `k = s^2 / (2 noise_std^2)` and `u = s^2 / w`, the flow is

        dx / dw = x (1 + 2 k u) / (2 w) - k y / w,

    so a start is shrunk by `sqrt(w0 / w1) exp(k u1 - k u0)`.
    """
    law, eps = LAWS[law], EPS[law]
    size, noise, y = 0.8, 0.5, 1.3
    k = size / (2.0 * noise**2)
    levels = [np.exp(-float(law.lam(t))) for t in (eps, law.t1)]
    u0, u1 = (size / (size + level**2) for level in levels)
    pull = quad(lambda u: np.exp(k * (u - u0)) * np.sqrt(u / u0) / u, u1, u0)[0]
    mean, gain = k * y * pull, np.sqrt(u1 / u0) * np.exp(k * (u1 - u0))
    data, one = Gaussian.scalar(0.0, np.sqrt(size)), mask((1,), [1])
    predict = dps(law, one, np.array([y]), noise)(data.predict(law))
    ts = make_grid("uniform_lam", law, 300, eps)
    x = np.array([[0.0], [1.0]]) * float(law.coeffs(law.t1).a)
    out = np.asarray(jax.jit(lambda x: sample(KEY, predict, heun(law), x, ts).x)(x)).ravel()
    out = out / float(law.coeffs(eps).a)
    np.testing.assert_allclose([out[0], out[1] - out[0]], [mean, gain], rtol=1e-3)
    # From infinite noise to none, the bias is that of the docstring of `dps`.
    limit = quad(lambda u: np.exp(k * (u - 1.0)) / np.sqrt(u), 0.0, 1.0)[0]
    assert np.isclose(k * limit, 2.0 * np.sqrt(k) * dawsn(np.sqrt(k)))
    assert np.exp(-2 * k) < 0.5 / (1 + 2 * k) and k * limit > 2 * k / (1 + 2 * k)


def stationary(score):
    """Return mean and covariance of the Gaussian with this score at zero and the unit vectors."""
    cov = np.linalg.inv(score[:1] - score[1:])
    return cov @ score[0], cov


def test_annealed_is_right_at_the_end_and_not_on_the_way(x64):
    """The stationary law of Langevin steps is the posterior at low noise, and not at high noise."""
    law = EDM()

    forms = (("flat", 1.0), ("residual", 1.0), ("drawn", 0.0), ("drawn", 1.0))

    @jax.jit
    def run(x, t):
        # All examples have the same z, so that the score is one affine map.
        keys = jnp.stack([KEY] * (D + 1))
        guides = [annealed(law, OPERATOR, Y, NOISE, form, gamma, keys) for form, gamma in forms]
        return [guide(PRIOR.predict(law))(x, t).score for guide in guides]

    for t, low, high in ((1e-3, 0.0, 0.02), (2.0, 0.1, np.inf)):
        true_mean, true_cov = EXACT.moments(law, t)
        std = np.sqrt(np.diag(true_cov))
        for score in jax.device_get(run(CORNERS, t)):
            mean, cov = stationary(score)
            error = max(np.max(abs(mean - true_mean) / std), np.max(abs(cov - true_cov) / std**2))
            assert low <= error < high


def test_redrawn_draws_for_each_step(x64):
    """Each step draws its own z for all its evaluations; the base sampler keeps its noise."""
    law, seen = EDM(), []

    def make(key):
        def guide(predict):
            def guided(x, t):
                jax.debug.callback(lambda k: seen.append(int(k)), jax.random.bits(key))
                return predict(x, t)

            return guided

        return guide

    ts = make_grid("karras", law, 3, 2e-3)
    sampler = redrawn(make, heun(law))
    run = jax.jit(
        lambda x: [sample(KEY, PRIOR.predict(law), s, x, ts) for s in (sampler, heun(law))]
    )
    found, plain = jax.device_get(run(np.ones((2, D))))
    jax.effects_barrier()
    assert len(seen) == found.nfe == 6 and len(set(seen)) == 3
    assert seen[0] == seen[1] and seen[2] == seen[3]
    np.testing.assert_allclose(found.x, plain.x, rtol=1e-12)


def test_dps_steps_is_the_published_update(x64):
    """A step is DDIM with noise and then `x_s - (zeta / |r|) grad |r|^2`, with autodiff's grad."""
    law, t, s, zeta = VP(), 0.5, 0.4, 0.3
    x = np.random.default_rng(0).standard_normal((3, D))
    predict, base = PRIOR.predict(law), ddim(law, eta=1.0)
    sampler = dps_steps(law, base, OPERATOR, Y, zeta)
    square = lambda x: jnp.sum((Y - A @ predict(x[None], t).x0[0]) ** 2)

    @jax.jit
    def run(x):
        value, gradient = jax.vmap(jax.value_and_grad(square))(x)
        truth = base.step(KEY, predict, base.init(x, t), Span(t, s)).x
        found = sampler.step(KEY, predict, sampler.init(x, t), Span(t, s)).x
        return found, truth - zeta / jnp.sqrt(value)[:, None] * gradient

    np.testing.assert_allclose(*run(x), rtol=1e-9)


def ways(law):
    """Yield every method as `(sampler, guide)`."""
    plain = lambda predict: predict
    yield from ((ddim(law), make(law, OPERATOR, Y, NOISE)) for make in (mmps, pigdm, dps, annealed))
    yield ddim(law), mmps(law, OPERATOR, Y, NOISE, products="jvp")
    yield heun(law), mmps(law, OPERATOR, Y, NOISE)
    yield ddrm(law, OPERATOR, Y, NOISE), plain
    yield dps_steps(law, ddim(law), OPERATOR, Y), plain


def test_the_network_is_evaluated_once():
    """Each step evaluates the network `sampler.nfe` times, also with products of its derivative."""
    law, calls = VP(), []
    every, ts = list(ways(law)), make_grid("uniform_lam", law, 3, 1e-2)

    def counted(number):
        def predict(x, t):
            jax.debug.callback(lambda: calls.append(number))
            # Data N(0, 1) have the shortest formula.
            return prediction_of(law, x, t, law.coeffs(t).a * x, law.coeffs(t).c * x)

        return predict

    def run(x):
        for i, (sampler, guide) in enumerate(every):
            yield sample(KEY, guide(counted(i)), sampler, x, ts).nfe

    nfe = jax.device_get(jax.jit(lambda x: list(run(x)))(np.ones((2, D))))
    jax.effects_barrier()
    assert np.bincount(calls).tolist() == nfe == [3 * sampler.nfe for sampler, _ in every]
