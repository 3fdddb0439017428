"""The mixture baseline on data with a known law, and so with known bits per dimension."""

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.datasets import load_digits

from evaluation.metrics.mixture import (
    CANDIDATES,
    Candidate,
    bits,
    dequantize,
    fit,
    fit_mixture,
    quantize,
)

SINGLE = Candidate(1, "full", 1e-6)


def normal_levels(rng, mean, cov, n, levels):
    """Return n normal vectors, rounded down to levels, as images of shape (D, 1, 1)."""
    x = np.floor(rng.multivariate_normal(mean, cov, n))
    assert x.min() >= 0 and x.max() < levels  # nothing is clipped, so the law is known
    return x.astype(np.uint8)[:, :, None, None]


def test_uniform_levels():
    """No model codes uniform levels in less than log2 L bits; one Gaussian needs
    log2(2 pi e / 12) / 2 more, its divergence from the uniform law on [0, 1]."""
    rng = np.random.default_rng(0)
    train, test = (rng.integers(0, 17, (n, 2, 2, 1)) for n in (4000, 3000))
    single = fit_mixture(train, 17, candidates=[SINGLE]).bits_per_dim(test)
    truth = np.log2(17) + np.log2(2 * np.pi * np.e / 12) / 2
    # Fitting 14 parameters to 4000 images costs 14 / 8000 nats per image, below 1e-3 bits/dim.
    assert abs(single.value - truth) < 4 * single.stderr + 1e-3
    assert 4 * single.stderr < 0.05
    boxes = fit_mixture(train, 17, candidates=[Candidate(40, "diag", 1e-6)]).bits_per_dim(test)
    assert np.log2(17) - 4 * boxes.stderr < boxes.value < single.value - 0.02


def test_independent_normal_levels():
    """The bits/dim equal the entropy of a rounded normal, from the distribution function."""
    levels, mean, sigma = 64, 31.3, 4.0
    edges = norm.cdf(np.arange(levels + 1), mean, sigma)
    p = np.diff(edges)[np.diff(edges) > 0]
    entropy = -np.sum(p * np.log2(p))
    rng = np.random.default_rng(1)
    train, test = (
        normal_levels(rng, [mean] * 3, sigma**2 * np.eye(3), n, levels) for n in (4000, 3000)
    )
    found = fit_mixture(train, levels, candidates=[SINGLE]).bits_per_dim(test)
    assert abs(found.value - entropy) < 4 * found.stderr + 2e-3
    assert 4 * found.stderr < 0.05


def test_correlated_levels_cost_less_by_their_information():
    """A full covariance reaches log2 |2 pi e C|^{1/2} / D of a correlated normal. A diagonal one
    costs the mutual information more."""
    sigma, rho = 16.0, 0.9
    cov = sigma**2 * np.array([[1, rho], [rho, 1]])
    truth = np.log2(np.linalg.det(2 * np.pi * np.e * cov)) / 4
    rng = np.random.default_rng(2)
    train, test = (normal_levels(rng, [127.5] * 2, cov, n, 256) for n in (4000, 3000))
    found = fit_mixture(train, 256, candidates=[SINGLE]).bits_per_dim(test)
    assert abs(found.value - truth) < 4 * found.stderr + 2e-3
    diagonal = fit_mixture(train, 256, candidates=[Candidate(1, "diag", 1e-6)]).bits_per_dim(test)
    information = -np.log2(1 - rho**2) / 4  # per dimension
    assert abs(diagonal.value - truth - information) < 4 * diagonal.stderr + 2e-3


def test_stderr_is_the_spread_over_test_sets():
    rng = np.random.default_rng(3)
    mixture = fit_mixture(rng.integers(0, 9, (500, 3, 1, 1)), 9, candidates=[SINGLE])
    found = [mixture.bits_per_dim(rng.integers(0, 9, (100, 3, 1, 1)), seed=k) for k in range(60)]
    spread = np.std([f.value for f in found], ddof=1)
    assert 0.7 < np.mean([f.stderr for f in found]) / spread < 1.4


def test_the_held_out_fifth_chooses():
    """The held-out images choose four components for four clusters, and one for one cluster. Forty
    components fit the training images of one cluster better and the held-out images worse."""
    rng = np.random.default_rng(4)
    one = normal_levels(rng, [32] * 4, 9 * np.eye(4), 300, 64)
    corners = rng.integers(0, 4, 400)
    clusters = normal_levels(rng, [8] * 4, 2 * np.eye(4), 400, 64)
    clusters = clusters + (48 * np.stack([corners % 2, corners // 2] * 2, 1))[:, :, None, None]
    four, forty = Candidate(4, "full", 1e-3), Candidate(40, "full", 1e-3)
    assert fit_mixture(clusters, 64, candidates=[SINGLE, four]).candidate == four
    x = dequantize(one, 64, np.random.default_rng(0))
    flexible, simple = (bits(fit(c, x, 64, 0), x).mean() for c in (forty, SINGLE))
    assert flexible < simple
    chosen = fit_mixture(one, 64, candidates=[forty, SINGLE])
    assert chosen.candidate == SINGLE
    assert chosen.held_out[SINGLE] < chosen.held_out[forty]


def test_the_winner_is_refitted_to_every_image():
    """The final mean is that of all ten images, not of the eight used to choose the candidate."""
    images = (np.arange(10)[:, None, None, None] ** 2 * np.ones((1, 1, 2, 1))).astype(int)
    mixture = fit_mixture(images, 256, candidates=[Candidate(1, "diag", 1e-3)])
    np.testing.assert_allclose(mixture.model.means_[0] * 256, 28.5 + 0.5, atol=0.2)


def test_samples_have_the_law_of_the_data():
    """The samples have the data's mean and covariance. Wrong rounding would shift the mean by half
    a level."""
    cov = np.array([[16.0, 8.0], [8.0, 9.0]])
    train = normal_levels(np.random.default_rng(5), [30, 40], cov, 4000, 64)
    mixture = fit_mixture(train, 64, candidates=[SINGLE])
    drawn = mixture.sample(20000, seed=1)
    assert drawn.shape == (20000, 2, 1, 1)
    levels = drawn.reshape(-1, 2) * 63
    np.testing.assert_allclose(levels, levels.round(), atol=1e-9)
    x = train.reshape(-1, 2).astype(float)
    # The bounds are 4 standard errors of a mean of 20000 (standard deviation 4) and of an entry of
    # the covariance.
    np.testing.assert_allclose(levels.mean(axis=0), x.mean(axis=0), atol=0.12 + 0.01)
    # Dequantisation and quantisation each add the variance 1/12 of one level.
    np.testing.assert_allclose(np.cov(levels.T), np.cov(x.T) + np.eye(2) / 6, atol=0.65)


def test_samples_are_a_function_of_the_seed():
    rng = np.random.default_rng(6)
    images = rng.integers(0, 5, (60, 2, 2, 1))
    mixture = fit_mixture(images, 5, candidates=[Candidate(3, "diag", 0.01)])
    first, other, again = (mixture.sample(30, seed=s) for s in (1, 2, 1))
    np.testing.assert_array_equal(first, again)
    # The images are sorted, because another order of the same images is no other draw.
    assert np.any(np.sort(first, axis=0) != np.sort(other, axis=0))
    assert first.min() >= 0 and first.max() <= 1
    refitted = fit_mixture(images, 5, candidates=[Candidate(3, "diag", 0.01)])
    np.testing.assert_array_equal(refitted.model.means_, mixture.model.means_)


@pytest.mark.parametrize("levels", [2, 17, 256])
def test_quantize_undoes_dequantize(levels):
    u = np.repeat(np.arange(levels), 50).reshape(-1, 2)
    x = dequantize(u, levels, np.random.default_rng(0))
    np.testing.assert_array_equal(quantize(x, levels), u)
    np.testing.assert_array_equal(
        quantize(np.array([-0.3, 0.0, 1.0, 7.0]), levels)[[0, 3]], [0, levels - 1]
    )
    # The noise is uniform in its cell, with mean 1/2 and variance 1/12.
    noise = x * levels - u
    assert abs(noise.mean() - 0.5) < 4 / (12 * noise.size) ** 0.5


def test_digits():
    """An independent fit of this kind gave 2.54 bits/dim for the best of seven, 2.94 for one full
    Gaussian, on another split of 297 test images."""
    images = load_digits().images.astype(np.uint8)[..., None]
    images = images[np.random.default_rng(0).permutation(len(images))]
    mixture = fit_mixture(images[:1500], 17)
    assert len(mixture.held_out) == len(CANDIDATES) == 7
    best = mixture.bits_per_dim(images[1500:])
    single = fit_mixture(images[:1500], 17, candidates=CANDIDATES[:1]).bits_per_dim(images[1500:])
    assert best.n == 297
    assert abs(best.value - 2.54) < 4 * best.stderr
    assert abs(single.value - 2.94) < 4 * single.stderr
    assert single.value - best.value > 0.25


def test_refusals():
    images = np.random.default_rng(0).integers(0, 17, (30, 2, 2, 1))
    mixture = fit_mixture(images, 17, candidates=[SINGLE])
    for call in (lambda x: fit_mixture(x, 17), mixture.bits_per_dim):
        with pytest.raises(ValueError, match="integers"):
            call(images / 16)
        with pytest.raises(ValueError, match=r"0 to 16"):
            call(images + 1)
        with pytest.raises(ValueError, match="integers"):
            call(images[:0])
    with pytest.raises(ValueError, match="training shape"):
        mixture.bits_per_dim(images[:, :1])
    with pytest.raises(ValueError, match="more images"):
        fit_mixture(images[:4], 17)
    large = np.zeros((30, 33, 32, 1), int)
    with pytest.raises(ValueError, match="1056 values"):
        fit_mixture(large, 17, candidates=[SINGLE])
    cheap = Candidate(1, "diag", 0.01)
    assert list(fit_mixture(large, 17, candidates=[SINGLE, cheap]).held_out) == [cheap]
