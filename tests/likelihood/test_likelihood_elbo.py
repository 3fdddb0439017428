"""The variational bound for Gaussian data and for levels, where its value is known."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from any_law import AnyLaw
from closed_form import Gaussian, Mixture
from scipy.stats import norm

from likelihood import (
    diffusion_loss,
    elbo_continuous,
    elbo_discrete,
    expected_log_decoder,
    prior_kl,
)
from sde_lib import VE, VP, Flow, SubVP, example_keys
from sde_lib.prediction import Prediction

KEY = jax.random.key(0)
# At these eps, a and c differ visibly from 1 and 0, so that an omitted term would show.
CASES = {
    "vp": (VP(), 0.1),
    "subvp": (SubVP(), 0.15),
    "ve": (VE(sigma_max=2.0), 0.2),
    "flow": (Flow(t1=0.95), 0.05),
}
DATA = Gaussian(
    np.array([0.4, -0.7, 0.1]),
    np.array([[0.5, 0.2, 0.0], [0.2, 0.3, 0.1], [0.0, 0.1, 0.8]]),
)
POINTS = np.array([[0.2, -0.5, 0.4], [1.5, 0.3, 0.9], [-0.6, -1.4, -1.0]])


def numbers(law, t):
    with jax.enable_x64(True):
        a, c = law.coeffs(jnp.asarray(t, jnp.float64))
        return float(a), float(c)


def gaussian_mean(x, mean, cov, c):
    """Return `E_z log N(x + c z; mean, cov)`, `(n,)`."""
    d, inverse = x - mean, np.linalg.inv(cov)
    square = np.einsum("nd,de,ne->n", d, inverse, d) + c**2 * np.trace(inverse)
    return -0.5 * (square + np.linalg.slogdet(2 * np.pi * cov)[1])


def exact_bound(law, eps, x, data=DATA):
    """Return `E log p_eps(a x + c z) + D log a + E log(prior / p_t1)`; all laws are Gaussian."""
    (a, c), (a1, c1), one = numbers(law, eps), numbers(law, law.t1), np.eye(x.shape[1])
    at_eps = gaussian_mean(a * x, a * data.mean, a**2 * data.cov + c**2 * one, c)
    at_t1 = gaussian_mean(a1 * x, a1 * data.mean, a1**2 * data.cov + c1**2 * one, c1)
    prior = gaussian_mean(a1 * x, 0.0, float(law.prior_std()) ** 2 * one, c1)
    return at_eps + x.shape[1] * np.log(a) + prior - at_t1


def repeated(points, n):
    return np.float32(np.repeat(points, n, axis=0))


@pytest.fixture(scope="module")
def bound():
    """Return `(which, eps, x) -> Elbo` with the exact prediction for DATA, for all laws."""

    @jax.jit
    def run(which, eps, x):
        law = AnyLaw([law for law, _ in CASES.values()], which)
        return elbo_continuous(KEY, law, DATA.predict(law), x, num_times=32, eps=eps)

    return run


@pytest.mark.parametrize("name", CASES)
def test_bound_of_gaussian_data_is_exact(name, bound):
    """For each point, 2000 estimates in float32 have the right mean and report the right error.

    The mean is within four standard errors, and the mean square of the reported errors equals the
    variance of the estimates.
    """
    (law, eps), n = CASES[name], 2000
    result = bound([*CASES].index(name), eps, repeated(POINTS, n))
    result = jax.tree.map(lambda v: np.asarray(v, np.float64).reshape(3, n), result)
    truth = exact_bound(law, eps, POINTS)
    error = result.logp - truth[:, None]
    of_mean = error.std(axis=1) / n**0.5
    assert np.all(abs(error.mean(axis=1)) < 4 * of_mean)
    # An error of a tenth of the integral would show, and so would an omitted D log a.
    a = 0.5 if name == "ve" else numbers(law, eps)[0]
    assert 6 * of_mean.max() < min(0.1 * result.diffusion.mean(axis=1).min(), -3 * np.log(a))
    ratio = error**2 - result.stderr**2
    assert np.all(abs(ratio.mean(axis=1)) < 4 * ratio.std(axis=1) / n**0.5)
    np.testing.assert_array_equal(result.nfe, 32)


@pytest.mark.parametrize("name", CASES)
def test_prior_term(name, x64):
    law, _ = CASES[name]
    a, c = numbers(law, law.t1)
    s = float(law.prior_std())
    entropy = -0.5 * 3 * np.log(2 * np.pi * np.e * c**2)
    truth = entropy - gaussian_mean(a * POINTS, 0.0, s**2 * np.eye(3), c)
    np.testing.assert_allclose(jax.jit(partial(prior_kl, law))(POINTS), truth, rtol=1e-5, atol=1e-9)
    if name != "vp":
        assert np.all(truth[1:] > 1e-5)


@pytest.fixture(scope="module")
def fall():
    """Return `(which, eps, d, x) -> ` the exact bound minus the bound with eps wrong by d."""
    data = Gaussian.scalar(0.2, 0.6, 3)

    @jax.jit
    def run(which, eps, d, x):
        law = AnyLaw([law for law, _ in CASES.values()], which)

        def wrong(x, t):
            right = data.predict(law)(x, t)
            return Prediction(right.x0, right.eps + d, None, None)

        value = lambda predict: elbo_continuous(KEY, law, predict, x, num_times=32, eps=eps).logp
        return value(data.predict(law)) - value(wrong)

    return run


@pytest.mark.parametrize("name", ["vp", "subvp", "ve"])
def test_bound_falls_by_what_the_predictor_is_wrong_by(name, fall):
    """With eps + d instead of eps and data N(m, s^2), the bound falls over the range of lam by

    |d|^2 (lam_eps - lam_t1) + 2 d (x - m) / s [arctan(s e^lam)]
    """
    (law, eps), n, s, d = CASES[name], 2000, 0.6, np.array([0.3, -0.5, 0.2])
    found = fall([*CASES].index(name), eps, np.float32(d), repeated(POINTS, n))
    found = np.asarray(found, np.float64).reshape(3, n)
    lam = np.array([np.log(np.divide(*numbers(law, t))) for t in (law.t1, eps)])
    turned = np.diff(np.arctan(s * np.exp(lam)))
    truth = d @ d * np.diff(lam) + 2 * (POINTS - 0.2) @ d / s * turned
    error = found.std(axis=1) / n**0.5
    assert np.all(abs(found.mean(axis=1) - truth) < 4 * error)
    assert np.all(error < 0.02 * d @ d * np.diff(lam)) and np.ptp(truth) > 20 * error.max()


def test_noise_of_known_mean_is_taken_off():
    """The control variate removes the variance of the noise, except in the lowest cell of lam.

    With prediction eps = 0, D = 48 dimensions and C cells, the variance is `(range / C)^2 D`.
    Without the control variate it would be C times as large.
    """
    law, n, cells = VP(), 500, 16
    zero = lambda x, t: Prediction(x, jnp.zeros_like(x), x, x)
    x = np.zeros((n, 4, 4, 3), np.float32)
    value, stderr = jax.jit(
        lambda x: diffusion_loss(KEY, law, zero, x, eps=1e-3, num_times=2 * cells)
    )(x)
    lam = [float(law.lam(jnp.asarray(t))) for t in (1e-3, law.t1)]
    width = (lam[0] - lam[1]) / cells
    error = np.asarray(value, np.float64) - 48 * (lam[0] - lam[1])
    assert abs(error.mean()) < 4 * error.std() / n**0.5
    # For sums of 96 squares, a sample variance has the relative variance (2 + 12 / 96) / n.
    assert abs(error.var() / (48 * width**2) - 1.0) < 4 * (2.2 / n) ** 0.5
    assert abs(np.mean(np.asarray(stderr) ** 2) / (48 * width**2) - 1.0) < 4 * (2.2 / n) ** 0.5


def test_what_is_taken_off_is_independent_of_what_it_is_taken_from():
    """The factor of the control variate comes from other cells.

    In one dimension, a factor from the same cell would give a bias of 0.13 nats.
    """
    (law, eps), n = CASES["vp"], 4000
    data, point = Gaussian.scalar(0.4, 0.7), np.array([[0.8]])
    run = jax.jit(
        lambda x: elbo_continuous(KEY, law, data.predict(law), x, num_times=32, eps=eps).logp
    )
    error = np.asarray(run(repeated(point, n)), np.float64) - exact_bound(law, eps, point, data)
    assert abs(error.mean()) < 4 * error.std() / n**0.5 < 0.03


def test_bound_of_levels_is_exact():
    """For two independent dimensions of four unequal levels, the bound equals a quadrature."""
    law, eps, n = VP(), 0.1, 2000
    values, P = np.array([-1.0, -0.3, 0.2, 1.0]), np.array([0.1, 0.5, 0.15, 0.25])
    one = Mixture(P, values[:, None], np.zeros(4)).predict(law)

    def predict(x, t):
        flat = one(x.reshape(-1, 1), jnp.repeat(t, 2))
        return Prediction(*(v.reshape(x.shape) for v in flat))

    u = np.repeat([[0, 1], [2, 3], [1, 1]], n, axis=0).astype(np.uint8)
    levels = np.float32(values)

    @jax.jit
    def run(u):
        bound = elbo_discrete(KEY, law, predict, levels, u, num_times=32, eps=eps)
        return bound, expected_log_decoder(law, eps, levels)

    result, table = jax.device_get(run(u))
    found = np.asarray(result.logp, np.float64).reshape(3, n)

    x, dx = np.linspace(-6, 6, 20001, retstep=True)
    q = lambda a, c: norm.pdf(x[None], a * values[:, None], c)
    near, far = q(*numbers(law, eps)), q(*numbers(law, law.t1))
    closed = np.sum(near * (np.log(P @ near) - np.log(near.sum(0))), axis=1) * dx
    prior = np.sum(far * (norm.logpdf(x) - np.log(P @ far)), axis=1) * dx
    truth = (closed + prior)[u[::n]].sum(1)
    error = found.std(axis=1) / n**0.5
    assert np.all(abs(found.mean(axis=1) - truth) < 4 * error) and np.max(error) < 0.02
    np.testing.assert_allclose(result.reconstruction, table[u.astype(int)].sum(1), rtol=1e-6)
    # On average over the data, it bounds the entropy of the levels.
    assert P @ (closed + prior) < P @ np.log(P)


def test_times_and_noise_belong_to_the_example():
    """Results do not depend on the order; one image with four keys has four estimates."""
    law, data = VP(), Gaussian.scalar(0.1, 0.5, 12)
    x = np.random.default_rng(0).standard_normal((4, 2, 2, 3)).astype(np.float32)
    given, order = np.arange(4), np.array([2, 0, 3, 1])

    @jax.jit
    def run(order, x):
        keys = example_keys(0, order)
        return elbo_continuous(keys, law, data.predict(law), x, num_times=8).logp

    plain = np.asarray(run(given, x))
    np.testing.assert_allclose(run(order, x[order]), plain[order], rtol=1e-5)
    assert len(np.unique(run(given, np.tile(x[:1], (4, 1, 1, 1))))) == 4


def test_what_is_refused():
    x, predict = np.zeros((2, 3), np.float32), DATA.predict(VP())
    for odd in (0, 7):
        with pytest.raises(ValueError, match="even number"):
            elbo_continuous(KEY, VP(), predict, x, num_times=odd)
    with pytest.raises(ValueError, match="integers"):
        elbo_discrete(KEY, VP(), predict, np.zeros(4, np.float32), x)
