"""The importance-weighted bound, for a density whose integral over a pixel is known."""

import jax
import numpy as np
from scipy.stats import norm

from likelihood import importance_weighted

MEAN, STD, EDGES = 0.2, 0.35, np.array([-1.0, 0.0, 1.0])
weighted = lambda logp: jax.device_get(jax.jit(importance_weighted)(logp))
TRUTH = np.log(norm.cdf(EDGES + 1, MEAN, STD) - norm.cdf(EDGES, MEAN, STD))


def draws(k, n):
    """Return log q(u + U) `(k, 3 n)` of three pixels u, with k dequantisations in n repeats."""
    U = np.random.default_rng(0).random((k, n, 3))
    return norm.logpdf(EDGES + U, MEAN, STD).reshape(k, -1)


def expected(k):
    """Return `E log (1/k sum q(u + U_j))` of each pixel, by Gauss-Legendre in each U_j; k <= 3."""
    x, w = np.polynomial.legendre.leggauss(60)
    U, w = (x + 1) / 2, w / 2
    found = []
    for edge in EDGES:
        q = norm.pdf(edge + U, MEAN, STD)
        total = sum(np.moveaxis(q.reshape(-1, *(1,) * (k - 1)), 0, j) for j in range(k))
        weight = np.ones(())
        for _ in range(k):
            weight = np.multiply.outer(weight, w)
        found.append(np.sum(weight * np.log(total / k)))
    return np.array(found)


def test_expectation_rises_with_k_from_the_plain_bound_to_the_truth(x64):
    """For k = 1, 2, 3 draws the bound equals a quadrature, rises with k, and is below the truth.

    The truth is the integral over the pixel.
    """
    n, last = 20_000, np.full(3, -np.inf)
    for k in (1, 2, 3):
        value = weighted(draws(k, n)).logp.reshape(n, 3)
        error = np.std(value, axis=0) / n**0.5
        assert np.all(abs(np.mean(value, axis=0) - expected(k)) < 4 * error)
        assert np.all(expected(k) - last > 8 * error), "the rise must be seen through the noise"
        last = expected(k)
    assert np.all(last < TRUTH)


def test_many_draws_find_the_truth_within_the_stated_error(x64):
    """With 1000 draws, distances from the truth in units of the reported error have variance 1.

    The bias, half of the variance, is far below the error of one estimate.
    """
    n = 400
    result = weighted(draws(1000, n))
    value, stderr = result.logp.reshape(n, 3), result.stderr.reshape(n, 3)
    z = (value - TRUTH) / stderr
    assert np.all(abs(np.mean(value, axis=0) - TRUTH) < 4 * np.std(value, axis=0) / n**0.5)
    assert np.all(abs(np.var(z, axis=0) - 1.0) < 4 * (2 / n) ** 0.5)
    assert np.max(stderr) < 0.1


def test_one_draw_is_the_plain_bound_and_large_numbers_do_not_overflow():
    logp = np.float32(np.random.default_rng(1).standard_normal((4, 5)) * 3 - 2e4)
    single = weighted(logp[:1])
    np.testing.assert_array_equal(single.logp, logp[0])
    assert np.all(np.isnan(single.stderr))
    shifted, plain = weighted(logp), weighted(logp + 2e4)
    np.testing.assert_allclose(shifted.logp + 2e4, plain.logp, atol=2e-3)
    np.testing.assert_allclose(shifted.stderr, plain.stderr, rtol=2e-3)
    assert np.all(np.isfinite(shifted.stderr)) and jax.tree.map(np.shape, plain) == ((5,), (5,))
