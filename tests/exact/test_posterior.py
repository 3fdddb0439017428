"""Posteriors in closed form, against other ways to compute them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closed_form import Gaussian
from closed_form import Mixture as RoundMixture
from linear_gaussian import LAWS, NOISE, OPERATOR, PRIOR, A, Y, posterior, states
from scipy.stats import multivariate_normal

from exact import (
    GaussianMoments,
    Mixture,
    gaussian_posterior,
    gaussian_predict,
    mixture_moments,
    mixture_posterior,
    mixture_predict,
)
from operators import complex_fourier, fourier, matrix

pytestmark = pytest.mark.usefixtures("x64", "strict_ranks")
RNG = np.random.default_rng(0)
PLANE = Mixture(
    np.array([0.5, 0.3, 0.2]),
    np.array([[1.0, 0.0], [-1.0, 1.0], [0.0, -1.5]]),
    np.array([[[0.3, 0.1], [0.1, 0.2]], [[0.1, 0.0], [0.0, 0.4]], [[0.2, -0.1], [-0.1, 0.2]]]),
)


def moments_of(cov, mean, rank):
    L, U = np.linalg.eigh(cov)
    return GaussianMoments(mean, U[:, ::-1][:, :rank], L[::-1][:rank])


def test_gaussian_by_precisions():
    found = gaussian_posterior(moments_of(PRIOR.cov, PRIOR.mean, 6), OPERATOR, Y, NOISE)
    truth = posterior(PRIOR, A, Y, NOISE)
    np.testing.assert_allclose(found.mean, truth.mean, atol=1e-12)
    np.testing.assert_allclose((found.U * found.L) @ found.U.T, truth.cov, atol=1e-12)
    law = LAWS["vp"]
    x = states(law, PRIOR, 0.3)
    told = jax.jit(lambda x: gaussian_predict(law, found)(x, 0.3))(x)
    for one, other in zip(told, truth.predict(law)(x, 0.3)):
        np.testing.assert_allclose(one, other, atol=1e-10)


@pytest.mark.parametrize("noise", [0.2, 0.0])
def test_gaussian_of_few_directions(noise):
    """For rank 2 of 6, the posterior equals that of the joint Gaussian.

    One of the directions is not measured.
    """
    data = moments_of(PRIOR.cov, PRIOR.mean, 2)
    row = A[:1] - (A[:1] @ data.U[:, 1:]) @ data.U[:, 1:].T
    nothing = np.concatenate([row, np.zeros((1, 6))])
    found = gaussian_posterior(data, matrix((6,), nothing), np.append(Y[:1], 0.0), noise)
    cov = (data.U * data.L) @ data.U.T
    gain = cov @ row.T / (row @ cov @ row.T + noise**2)
    np.testing.assert_allclose(found.mean, data.mean + gain @ (Y[:1] - row @ data.mean), atol=1e-12)
    np.testing.assert_allclose((found.U * found.L) @ found.U.T, cov - gain @ row @ cov, atol=1e-12)


def test_a_scan_of_a_complex_image():
    """Against the real matrix of a complex one, written out: 4 of 12 points, 8 numbers."""
    height, width, noise = 4, 3, 0.3
    keep = np.zeros((height, width), int)
    keep.flat[[0, 2, 5, 7]] = 1
    waves = lambda n: np.exp(-2j * np.pi * np.outer(np.arange(n), np.arange(n)) / n) / np.sqrt(n)
    W = np.kron(waves(height), waves(width))[keep.ravel() == 1]
    # The numbers of a state are (pixel, part), those of a measurement (point, part).
    real = np.stack([np.stack([W.real, -W.imag], -1), np.stack([W.imag, W.real], -1)], 1)
    real = real.reshape(8, 24)
    root, y = RNG.standard_normal((24, 24)), RNG.standard_normal(8)
    data = Gaussian(RNG.standard_normal(24), root @ root.T / 24 + 0.1 * np.eye(24))
    scan = complex_fourier((height, width, 2), keep)
    found = gaussian_posterior(moments_of(data.cov, data.mean, 24), scan, y, noise)
    truth = posterior(data, real, y, noise)
    np.testing.assert_allclose(found.mean, truth.mean, atol=1e-12)
    np.testing.assert_allclose((found.U * found.L) @ found.U.T, truth.cov, atol=1e-12)


def test_all_coefficients_of_a_real_image_say_what_its_pixels_say():
    """For N(0, 1) and noise s the posterior variance of a pixel is s^2 / (1 + s^2). A pair of
    conjugate coefficients that was counted twice would give s^2 / (2 + s^2)."""
    shape, noise = (4, 3, 1), 0.5
    image = RNG.standard_normal(shape)
    data = GaussianMoments(np.zeros(12), np.eye(12), np.ones(12))
    F = np.fft.fft2(image[..., 0], norm="ortho").ravel()
    y = np.stack([F.real, F.imag], -1)
    found = gaussian_posterior(data, fourier(shape, np.ones(3)), y, noise)
    np.testing.assert_allclose(found.mean, image.ravel() / (1 + noise**2), atol=1e-12)
    cov = (found.U * found.L) @ found.U.T
    np.testing.assert_allclose(cov, noise**2 / (1 + noise**2) * np.eye(12), atol=1e-12)


def test_mixture_by_quadrature():
    """Mean and covariance equal sums over a fine grid of the plane."""
    operator, y, noise = matrix((2,), np.array([[1.0, 0.5]])), np.array([0.4]), 0.3
    axis = np.linspace(-6.0, 6.0, 601)
    grid = np.stack(np.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)
    density = sum(w * multivariate_normal.pdf(grid, m, C) for w, m, C in zip(*PLANE))
    density = density * np.exp(-0.5 * ((y - grid @ [1.0, 0.5]) / noise) ** 2)
    density /= density.sum()
    mean = density @ grid
    cov = (density[:, None] * (grid - mean)).T @ (grid - mean)
    found = mixture_moments(mixture_posterior(PLANE, operator, y, noise))
    np.testing.assert_allclose(found[0], mean, atol=1e-8)
    np.testing.assert_allclose(found[1], cov, atol=1e-8)


def test_products_of_a_mixture_are_at_full_precision():
    """On accelerators too, which multiply matrices at half of it unless they are told."""
    run = lambda x: mixture_predict(LAWS["vp"], PLANE)(x, 0.4)
    program = str(jax.make_jaxpr(run)(np.ones((2, 2), np.float32)))
    assert 0 < program.count("dot_general") == program.count("Precision.HIGHEST, Precision")


def test_mixture_prediction_of_round_components():
    means, stds = RNG.standard_normal((3, 4)), np.array([0.3, 0.5, 0.8])
    data = Mixture(PLANE.weights, means, stds[:, None, None] ** 2 * np.eye(4))
    truth = RoundMixture(PLANE.weights, means, stds)
    x = RNG.standard_normal((5, 2, 2))
    law, t = LAWS["vp"], np.linspace(0.1, 0.9, 5)
    found = jax.jit(lambda x: mixture_predict(law, data)(x, t))(x)
    for one, other in zip(found, truth.predict(law)(x, t)):
        np.testing.assert_allclose(one, other, atol=1e-10)


def test_mixture_prediction_of_long_components():
    """The score is the derivative of the log density."""
    law, t = LAWS["flow"], 0.4
    a, c = 1.0 - t, t

    def logp(x):
        parts = []
        for weight, mean, cov in zip(*PLANE):
            spread, d = a**2 * cov + c**2 * np.eye(2), x - a * mean
            log_det = np.linalg.slogdet(spread)[1]
            parts.append(np.log(weight) - 0.5 * (d @ np.linalg.inv(spread) @ d + log_det))
        return jax.nn.logsumexp(jnp.stack(parts))

    x = RNG.standard_normal((6, 2))
    run = lambda x: (mixture_predict(law, PLANE)(x, t), jax.vmap(jax.grad(logp))(x))
    found, score = jax.device_get(jax.jit(run)(x))
    np.testing.assert_allclose(found.score, score, atol=1e-10)
    np.testing.assert_allclose(found.x0, (x + c**2 * score) / a, atol=1e-10)
