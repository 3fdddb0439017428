"""The ensemble against known posteriors and evidences.

The average over independent ensembles must be within four standard errors, which come from the
spread between ensembles. This spread must be within a factor of that of as many posterior draws.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closed_form import Gaussian
from linear_gaussian import LAWS, posterior
from scipy.stats import multivariate_normal

from exact import mixture_posterior, mixture_predict
from exact.posterior import Mixture
from guidance import dps, pigdm
from operators import blur, matrix
from restoration import (
    Ensemble,
    draws,
    ensemble,
    gaussian_misfit,
    measured_misfit,
    weighted_moments,
)
from restoration.particles import systematic
from samplers import dpm_multistep, make_grid, sample
from sde_lib import EDM, VP, DoubleWell

KEY = jax.random.key(0)
SCALAR = matrix((1,), np.eye(1))


def problem(dims, rows, noise=0.5):
    """Return correlated data, a matrix `(rows, dims)`, and a measurement."""
    rng = np.random.default_rng(dims)
    root = rng.standard_normal((dims, dims)) / np.sqrt(dims)
    data = Gaussian(0.5 * rng.standard_normal(dims), root @ root.T + 0.1 * np.eye(dims))
    A = rng.standard_normal((rows, dims))
    y = A @ data.draw(rng, 1)[0] + noise * rng.standard_normal(rows)
    return data, A, y


def truth(data, law, eps, A, y, noise):
    """Return posterior and log p(y) for x_eps, where the ensemble ends."""
    data = Gaussian(*data.moments(law, eps))
    cov = A @ data.cov @ A.T + noise**2 * np.eye(len(A))
    exact = posterior(data, A, y, noise)
    return exact, multivariate_normal.logpdf(y, A @ data.mean, cov)


def repeat(law, predict, misfit, n, steps, seeds, eps=1e-3, grid="uniform_lam", **options):
    """Return means, covariances, log evidences, smallest ESS and resamplings of `seeds` ensembles.

    `misfit` is called inside the compiled program, with all its computations from y.
    """
    ts = make_grid(grid, law, steps, eps)

    def one(key):
        result = ensemble(law, misfit(), ts, n, **options)(key, predict)
        return *weighted_moments(result), result.log_evidence, result.ess.min(), result.resamplings

    found = jax.jit(lambda key: jax.lax.map(one, jax.random.split(key, seeds)))(KEY)
    return [np.asarray(v, np.float64) for v in found]


def check(found, exact, seeds, n, spread=5.0):
    """Assert that the average is right and each ensemble at least as good as `n / spread^2` draws.

    Ensembles are weighted by their evidence. The sum over particles of `Z w f(x)` has no bias for
    any n; a plain average of ratios has none only for large n.
    """
    means, covs, logs = found[:3]
    ratio = np.exp(logs - logs.max())
    off = means - exact.mean
    squares = covs + np.einsum("ri,rj->rij", off, off) - exact.cov
    for errors in (ratio[:, None] * off, ratio[:, None, None] * squares):
        error = errors.std(0, ddof=1) / seeds**0.5
        assert np.all(np.abs(errors.mean(0)) < 4.0 * error)
    assert np.all(means.std(0) < spread * np.sqrt(np.diag(exact.cov) / n))


@pytest.mark.parametrize(("name", "dims", "rows"), [("flow", 3, 4)])
def test_gaussian_posterior_and_evidence(name, dims, rows):
    """Posterior and evidence are right, here with more measured values than dimensions.

    Tests below, under VP, have as many values as dimensions, and fewer.
    """
    law, eps, noise, seeds, n = LAWS[name], 1e-3, 0.5, 16, 1000
    data, A, y = problem(dims, rows)
    misfit = lambda: gaussian_misfit(matrix((dims,), A), y, noise)
    found = repeat(law, data.predict(law), misfit, n, 100, seeds, eps)
    exact, logp = truth(data, law, eps, A, y, noise)
    check(found, exact, seeds, n)
    # The estimate of Z (not of log Z) has no bias, except from the start: the prior differs a
    # little from the law at t1.
    ratio = np.exp(found[2] - logp)
    prior = Gaussian(np.zeros(dims), float(law.prior_std()) ** 2 * np.eye(dims))
    at_start = [
        multivariate_normal.logpdf(y, A @ mean, A @ cov @ A.T + noise**2 * np.eye(rows))
        for mean, cov in (prior, data.moments(law, law.t1))
    ]
    off = at_start[0] - at_start[1]
    assert abs(off) < 0.03
    assert abs(ratio.mean() - 1.0) < abs(off) + 4.0 * ratio.std(ddof=1) / seeds**0.5
    assert ratio.std() < 0.25


@pytest.mark.optimised
def test_the_error_falls_as_one_over_the_root_of_the_particles():
    """From N = 250 to 2000 particles, the slope of the log error of mean and covariance is -1/2."""
    law, noise, eps, seeds = VP(), 0.5, 1e-3, 48
    data, A, y = problem(2, 2)
    exact, _ = truth(data, law, eps, A, y, noise)
    misfit = lambda: gaussian_misfit(matrix((2,), A), y, noise)
    sizes = np.array([250, 2000])
    errors = []
    for n in sizes:
        means, covs = repeat(law, data.predict(law), misfit, n, 50, seeds)[:2]
        square = [np.sum((means - exact.mean) ** 2, 1), np.sum((covs - exact.cov) ** 2, (1, 2))]
        errors.append([(v.mean(), v.std(ddof=1) / seeds**0.5) for v in square])
    value, error = np.moveaxis(np.array(errors), -1, 0)
    logs, u = 0.5 * np.log(value), np.log(sizes) - np.log(sizes).mean()
    slope = u @ logs / (u @ u)
    slope_error = np.sqrt(u**2 @ (0.5 * error / value) ** 2) / (u @ u)
    assert np.all(np.abs(slope + 0.5) < 2.0 * slope_error)
    assert np.all(slope_error < 0.06)


@pytest.mark.optimised
def test_scalar_of_the_derivation():
    """For prior N(0, 1), noise 0.5 and y = 1.2 the posterior has mean 0.96 and variance 0.2.

    The run starts at noise level 5.
    """
    law, seeds, n = EDM(t1=5.0), 12, 2000
    data, y = Gaussian.scalar(0.0, 1.0), np.array([1.2])
    misfit = lambda: gaussian_misfit(SCALAR, y, 0.5)
    found = repeat(law, data.predict(law), misfit, n, 100, seeds, 2e-3)
    assert found[0].mean() == pytest.approx(0.960, abs=4 * found[0].std() / seeds**0.5)
    assert found[1].mean() == pytest.approx(0.200, abs=4 * found[1].std() / seeds**0.5)
    assert max(found[0].std(), found[1].std()) < 0.02 and found[4].mean() < 5
    # With all of the guidance in the drift, the weights spread, and more particles are needed.
    whole = repeat(law, data.predict(law), misfit, n, 1000, 4, 2e-3, fraction=1.0)
    assert whole[4].min() > 40 and whole[2].std() > 10 * found[2].std()


WEAK = 1.5


@pytest.mark.parametrize(("fraction", "eta"), [(0.0, 2.0), (1.0, 0.5)])
def test_any_split_and_any_noise_give_the_posterior(fraction, eta):
    """Any splitting and any noise give the posterior, in a problem whose weights vary little.

    Without the weights the error would show.
    """
    law, seeds, n, y = VP(), 12, 2000, np.array([1.7])
    data = Gaussian.scalar(0.3, 0.8)
    misfit = lambda: gaussian_misfit(SCALAR, y, WEAK)
    options = {"fraction": fraction, "eta": eta}
    found = repeat(law, data.predict(law), misfit, n, 80, seeds, **options)
    exact, logp = truth(data, law, 1e-3, np.eye(1), y, WEAK)
    check(found, exact, seeds, n)
    assert found[2].mean() == pytest.approx(logp, abs=0.004 + 4 * found[2].std() / seeds**0.5)
    bare = posterior(data, np.eye(1), y, WEAK / np.sqrt(2.0 * fraction)) if fraction else data
    assert abs(bare.mean - exact.mean)[0] > 8 * found[0].std() / seeds**0.5


def test_without_noise_only_weights_are_left():
    """Without noise (V = 0) particles follow the prior's flow, and `log w = mu(x_T) - mu(x_0)`.

    This is exact, but the weights are so uneven that it is of no use.
    """
    law, n, noise, y = VP(), 1000, 0.1, np.array([1.0, -0.5])
    data = Gaussian(np.array([0.5, -0.2]), np.array([[1.0, 0.8], [0.8, 1.0]]))
    misfit = gaussian_misfit(matrix((2,), np.eye(2)), y, noise)
    ts = make_grid("uniform_lam", law, 60, 1e-3)
    options = {"eta": 0.0, "threshold": 0.0, "start": "prior"}
    run = jax.jit(lambda k: ensemble(law, misfit, ts, n, **options)(k, data.predict(law)))
    result = jax.device_get(run(KEY))
    x = result.x
    ends = data.flow_map(law, x, 1e-3, law.t1)
    back = np.sum((x - y) ** 2, 1) / (2 * noise**2)
    logs = -back - np.logaddexp.reduce(-back)
    np.testing.assert_allclose(result.log_weights, logs, atol=2e-3 * np.ptp(logs))
    # From starts of the prior, the weights at the start are `exp(-mu(x_T))`; they are included.
    assert np.std(np.sum((ends - y) ** 2, 1)) > 1.0
    assert result.ess[-1] < 30 and result.resamplings == 0 and result.nfe == 120


def nothing(x):
    return jnp.zeros(x.shape[0], x.dtype)


def test_without_a_misfit_it_samples_the_prior_and_a_constant_moves_the_evidence_alone():
    """Without a misfit samples follow the prior; a constant c in the misfit only changes log Z.

    One program computes `weight mu(x) + c`.
    """
    law, n, shift = VP(), 2000, 8.0
    data, A, y = problem(2, 2)
    value = gaussian_misfit(matrix((2,), A), y, 1.0).value
    ts = make_grid("uniform_lam", law, 80, 1e-3)

    @jax.jit
    def run(weight, c):
        misfit = measured_misfit(lambda x: weight * value(x) + c, (2,))
        result = ensemble(law, misfit, ts, n, fraction=1.0, eta=0.5)(KEY, data.predict(law))
        return result, weighted_moments(result)

    (prior, found), (plain, _), (shifted, _) = jax.device_get(
        [run(*each) for each in ((0.0, 0.0), (1.0, 0.0), (1.0, shift))]
    )
    np.testing.assert_allclose(prior.log_weights, -np.log(n), rtol=1e-6)
    assert abs(prior.log_evidence) < 1e-5 and prior.resamplings == 0
    np.testing.assert_allclose(prior.ess, n, rtol=1e-3)
    mean, cov = data.moments(law, 1e-3)
    variance = np.diag(cov)
    assert np.all(np.abs(found[0] - mean) < 4.0 * np.sqrt(variance / n))
    error = np.sqrt((np.outer(variance, variance) + cov**2) / n)
    assert np.all(np.abs(found[1] - cov) < 4.0 * error)

    assert np.all(np.isfinite(plain.x)) and np.ptp(plain.log_weights) > 0.1
    np.testing.assert_allclose(plain.x, shifted.x, atol=1e-4)
    np.testing.assert_allclose(plain.log_weights, shifted.log_weights, atol=1e-3)
    assert plain.log_evidence - shifted.log_evidence == pytest.approx(shift, 1e-3)


MODES = Mixture(
    np.array([0.5, 0.5]),
    np.array([[-1.5, -0.5], [1.5, 0.5]]),
    np.stack([np.diag([0.05, 0.4]), np.diag([0.05, 0.1])]),
)


def test_weights_of_modes_where_guides_do_not_find_them():
    """The ensemble gives the weights of two modes, which guides get wrong.

    The measured coordinate has a larger variance in one mode than in the other.
    """
    law, noise, y, seeds, n = VP(), 0.3, np.array([-0.4]), 8, 2000
    operator = matrix((2,), np.array([[0.0, 1.0]]))
    exact = mixture_posterior(MODES, operator, y, noise)
    truth = exact.weights[1]
    assert 0.1 < truth < 0.4
    predict, ts = mixture_predict(law, MODES), make_grid("uniform_lam", law, 100, 1e-3)
    share = lambda r: jnp.exp(r.log_weights) @ (r.x[:, 0] > 0.0)
    run = ensemble(law, gaussian_misfit(operator, y, noise), ts, n)
    every = lambda key: jax.lax.map(lambda k: share(run(k, predict)), jax.random.split(key, seeds))
    found = np.asarray(jax.jit(every)(KEY), np.float64)
    error = found.std(ddof=1) / seeds**0.5
    assert error < 0.01
    assert abs(found.mean() - truth) < 4.0 * error
    guides = [make(law, operator, y, noise) for make in (dps, pigdm)]
    go = lambda x: [sample(KEY, g(predict), dpm_multistep(law), x, ts).x for g in guides]
    for x in jax.device_get(jax.jit(go)(np.random.default_rng(0).standard_normal((n, 2)))):
        assert abs(np.mean(x[:, 0] > 0.0) - truth) > 0.05


def test_a_measurement_that_is_not_linear():
    """For `y = x^2 + noise` the posterior has two modes; its moments equal a quadrature."""
    law, y, noise, seeds, n = VP(), 1.0, 0.8, 8, 2000
    data = Gaussian.scalar(0.3, 0.8)
    value = lambda x: 0.5 * jnp.sum((x**2 - y) ** 2, axis=1) / noise**2
    misfit = lambda: measured_misfit(value, (1,))
    options = {"eta": 0.3, "threshold": 1.0, "fraction": 0.25}
    found = repeat(law, data.predict(law), misfit, n, 150, seeds, **options)
    x = np.linspace(-4.0, 4.0, 4001)
    mean, cov = data.moments(law, 1e-3)
    p = np.exp(-((x - mean) ** 2) / (2 * cov[0]) - (x**2 - y) ** 2 / (2 * noise**2))
    dx, w = x[1] - x[0], p / p.sum()
    exact = Gaussian(np.array([w @ x]), np.array([[w @ x**2 - (w @ x) ** 2]]))
    check(found, exact, seeds, n, spread=6.0)
    logz = np.log(p.sum() * dx / np.sqrt(2 * np.pi * cov[0, 0]))
    assert found[2].mean() == pytest.approx(logz, abs=0.01 + 4 * found[2].std() / seeds**0.5)


def test_stiff_measurements():
    """Measurements with little noise are solved in the singular basis with any step size.

    An explicit solve needs the number of steps that the error names; with a fifth of them the
    particles diverge.
    """
    law, noise, n, y = VP(), 0.02, 500, np.array([0.4])
    data = Gaussian.scalar(0.3, 0.8)
    linear = gaussian_misfit(SCALAR, y, noise)
    exact, _ = truth(data, law, 1e-3, np.eye(1), y, noise)
    found = repeat(law, data.predict(law), lambda: linear, n, 60, 8)
    check(found, exact, 8, n)
    plain = measured_misfit(linear.value, (1,), stiffest=linear.stiffest)
    grid = lambda steps: make_grid("uniform_lam", law, steps, 1e-3)
    with pytest.raises(ValueError, match=r"take about .* steps") as error:
        ensemble(law, plain, grid(100), n, eta=0.05)
    steps = int(str(error.value).split("about ")[1].split(" ")[0])
    run = ensemble(law, plain, grid(steps), 2, eta=0.05)
    assert steps > 500 and callable(run)
    blind = measured_misfit(linear.value, (1,))
    short = ensemble(law, blind, grid(steps // 5), 100, eta=0.05)
    assert not np.all(np.abs(jax.jit(lambda k: short(k, data.predict(law)))(KEY).x) < 10.0)


def test_resampling_and_draws():
    """Resampling takes each index in proportion to its weight, up to one; draws have no order."""
    logs = np.log([0.05, 0.5, 0.15, 0.3]) + 7.0
    choose = lambda key: jax.vmap(lambda k: systematic(k, logs, 50))(jax.random.split(key, 20))
    for chosen in np.asarray(jax.jit(choose)(KEY)):
        counts = np.bincount(chosen, minlength=4)
        assert counts.sum() == 50 and np.all(np.abs(counts - 50 * np.exp(logs - 7.0)) < 1.0)
    rng, n = np.random.default_rng(0), 1000
    x, weights = rng.standard_normal((n, 2)) + 0.5, rng.exponential(size=n)
    weights /= weights.sum()

    def run(x, logs):
        zero = jnp.zeros(())
        particles = Ensemble(x, logs, zero, zero, zero, zero)
        return draws(KEY, particles, 5000), weighted_moments(particles)

    drawn, (mean, cov) = jax.device_get(jax.jit(run)(x, np.log(weights)))
    # Weighted mean and covariance by their formulas.
    true_mean = weights @ x
    true_cov = (weights[:, None] * (x - true_mean)).T @ (x - true_mean)
    np.testing.assert_allclose(mean, true_mean, atol=1e-5)
    np.testing.assert_allclose(cov, true_cov, atol=1e-5)
    # There are five draws per particle, so the counts err by at most a fifth of a particle.
    np.testing.assert_allclose(drawn.mean(0), mean, atol=0.01)
    np.testing.assert_allclose(np.cov(drawn.T), cov, atol=0.01)
    halves = drawn[:2500].mean(0) - drawn[2500:].mean(0)
    assert np.all(np.abs(halves) < 4.0 * np.sqrt(np.diag(cov) / 1250))


def test_several_measurements_and_images():
    """Misfits can be mapped over, states may be images, and `nfe` counts the network's calls."""
    law, n, shape, noise = VP(), 200, (2, 2, 1), 0.3
    rng, calls = np.random.default_rng(0), []
    root = rng.standard_normal((4, 4))
    data = Gaussian(np.zeros(4), 0.2 * root @ root.T + 0.1 * np.eye(4))

    def predict(x, t):
        jax.debug.callback(lambda: calls.append(x.shape))
        return data.predict(law)(x, t)

    operator, ys = blur(shape, 0.7), rng.standard_normal((2, *shape)).astype(np.float32)
    ts = make_grid("uniform_lam", law, 20, 1e-3)
    one = lambda y: ensemble(law, gaussian_misfit(operator, y, noise), ts, n)(KEY, predict)
    run = jax.jit(lambda ys: jax.lax.map(one, ys))
    both = jax.device_get(run(ys))
    jax.effects_barrier()
    assert len(calls) == both.nfe.sum() and set(calls) == {(n, *shape)}
    assert both.x.shape == (2, n, *shape) and both.ess.shape == (2, 20)
    turned = jax.device_get(run(ys[::-1]))
    np.testing.assert_allclose(both.x[1], turned.x[0], atol=1e-5)
    np.testing.assert_allclose(both.log_evidence[1], turned.log_evidence[0], rtol=1e-5)
    assert np.abs(both.log_evidence[0] - both.log_evidence[1]) > 0.1


LAW, TS = VP(), np.geomspace(1.0, 1e-3, 11)
LINEAR, PLAIN = gaussian_misfit(SCALAR, np.ones(1), 0.5), measured_misfit(nothing, (1,))
CASES = [
    (lambda: ensemble(DoubleWell(), LINEAR, TS, 4), r"DoubleWell has no coeffs\(t\)"),
    (lambda: ensemble(LAW, LINEAR, TS, 0), "particles is 0; it must be at least 1"),
    (lambda: ensemble(LAW, LINEAR, TS, 4, fraction=1.5), "fraction is 1.5; it must be from 0 to 1"),
    (lambda: ensemble(LAW, LINEAR, TS, 4, eta=-1.0), "eta is -1.0; it must be 0 or more"),
    (lambda: ensemble(LAW, LINEAR, TS, 4, eta=np.inf), "eta is inf"),
    (lambda: ensemble(LAW, LINEAR, TS, 4, threshold=2.0), "threshold is 2.0"),
    (lambda: ensemble(LAW, LINEAR, TS, 4, corrections=-1), "corrections is -1"),
    (lambda: ensemble(LAW, LINEAR, TS, 4, probes=0), "probes is 0"),
    (lambda: ensemble(LAW, LINEAR, TS, 4, start="zero"), "start is 'zero'"),
    (lambda: ensemble(LAW, PLAIN, TS, 4, start="exact"), "not of a linear measurement"),
    (lambda: ensemble(LAW, LINEAR, TS, 4, fraction=1.0), r"V\^2 dt / noise_std\^2 reaches"),
    (lambda: ensemble(LAW, LINEAR, TS, 4)(jax.random.split(KEY, 4), None), "There are 4 keys"),
    (lambda: gaussian_misfit(SCALAR, np.ones((2, 1)), 0.5), "2 measurements and a misfit is of"),
    (lambda: gaussian_misfit(SCALAR, np.ones(3), 0.5), "measurement has shape"),
    (lambda: gaussian_misfit(SCALAR, np.ones(1), 0.0), "noise_std is 0.0"),
    (lambda: gaussian_misfit(blur((65, 64, 1), 1.0, "zero"), np.ones((65, 64, 1)), 0.5), "no SVD"),
]


@pytest.mark.parametrize(("build", "message"), CASES)
def test_each_refusal_has_its_sentence(build, message):
    with pytest.raises(ValueError, match=message) as error:
        build()
    assert str(error.value).endswith(".") and "\n" not in str(error.value)
