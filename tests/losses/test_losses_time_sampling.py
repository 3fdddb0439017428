"""Sampling of training times: the weights make every way of sampling unbiased."""

import functools

import jax
import numpy as np
import pytest
from any_law import AnyLaw
from scipy.integrate import quad

from losses import TIME_SAMPLING, WEIGHTINGS
from losses.time_sampling import stratified
from sde_lib import SDES

LAWS = {name: law() for name, law in SDES.items()}
laws = pytest.mark.parametrize("law", LAWS)
# Evenly spaced in (0, 1), so that a mean over u is the midpoint rule for an integral over u.
U = ((np.arange(20_000) + 0.5) / 20_000).astype(np.float32)
FROM_ZERO = np.linspace(0.0, 1.0, 1001, dtype=np.float32)[:-1]


@pytest.fixture(scope="module")
def sampled():
    """Return `name of a law -> {(sampling, grid): (t, w)}` for U and FROM_ZERO, as one program."""
    grids = {"even": U, "from zero": FROM_ZERO}

    @jax.jit
    def run(which, grids):
        law = AnyLaw(LAWS.values(), which)
        return {
            (name, grid): sampler(law, u)
            for name, sampler in TIME_SAMPLING.items()
            for grid, u in grids.items()
        }

    return functools.cache(lambda name: jax.device_get(run([*LAWS].index(name), grids)))


@laws
@pytest.mark.parametrize("name", TIME_SAMPLING)
def test_weighted_means_are_integrals_over_uniform_time(law, name, sampled):
    """`E[w h(t)]` is the mean of h over [t0, t1].

    h is flat, growing, oscillating, or peaked at the data. The tolerance is the error of the
    midpoint rule (1e-4) and of float32 sums.
    """
    t, w = (np.asarray(v, np.float64) for v in sampled(law)[name, "even"])
    law = LAWS[law]
    span = law.t1 - law.t0
    for h in (
        lambda t: 1.0 + 0.0 * t,
        lambda t: t / law.t1,
        lambda t: 1.0 + np.sin(9.0 * t / law.t1),
        lambda t: 1.0 / (0.05 + t / law.t1),
    ):
        truth = quad(h, law.t0, law.t1, epsabs=0.0, epsrel=1e-9)[0] / span
        assert abs(np.mean(w * h(t)) / truth - 1.0) < 5e-4


@laws
@pytest.mark.parametrize("name", TIME_SAMPLING)
def test_times_cover_the_span_in_order(law, name, sampled):
    t, w = sampled(law)[name, "from zero"]
    assert np.all(np.diff(t) > 0) and np.all(w > 0) and t.dtype == np.float32
    # t0 is reached to the digits that lam has in float32; VE's lam hardly changes near t0.
    np.testing.assert_allclose(t[0], LAWS[law].t0, rtol=1e-4, atol=2e-7)
    assert t[-1] < LAWS[law].t1 * (1 + 1e-6)


@laws
def test_uniform_lam_is_uniform_in_lam(law, sampled):
    t, _ = sampled(law)["uniform_lam", "even"]
    a, c = (np.asarray(v, np.float64) for v in LAWS[law].coeffs(t))
    steps = np.diff(np.log(a / c))
    # lam is even over the whole range; single steps of 20,000 are even only to float32 rounding.
    blocks = steps[:19_990].reshape(10, -1).sum(1)
    np.testing.assert_allclose(blocks, blocks.mean(), rtol=2e-4)


@laws
def test_importance_evens_out_the_likelihood_weighting(law, sampled):
    """`w g^2 / c^2` is constant, and equals the mean of `g^2 / c^2` over uniform t.

    Because `g^2 / c^2 = -2 lam'`, this mean is `2 (lam(t0) - lam(t1)) / (t1 - t0)`.
    """
    t, w = sampled(law)["importance", "even"]
    law = LAWS[law]
    g2, c = (np.asarray(v, np.float64) for v in (law.g2(t), law.coeffs(t).c))
    flat = w * g2 / c**2
    high, low = np.asarray(law.lam(np.float32([law.t0, law.t1])), np.float64)
    constant = 2.0 * (high - low) / (law.t1 - law.t0)
    np.testing.assert_allclose(flat.mean(), constant, rtol=1e-3)
    # The tolerance allows for a density that is constant in each of the table's 4096 cells.
    assert flat.std() / flat.mean() < 5e-3
    assert abs(flat / constant - 1.0).max() < 0.02


@pytest.fixture(scope="module")
def weightings():
    """Return `(which, t) -> {name: weights}`."""

    @jax.jit
    def run(which, t):
        law = AnyLaw(LAWS.values(), which)
        return {name: weighting(law, t) for name, weighting in WEIGHTINGS.items()}

    return run


@laws
def test_weightings_are_factors_on_the_noise(law, weightings, x64):
    """The weights on the noise error are `lambda / c^2`, with lambda = c^2 or lambda = g^2."""
    t = np.geomspace(LAWS[law].t0, LAWS[law].t1, 50)
    c, g = (np.asarray(v) for v in (LAWS[law].coeffs(t).c, LAWS[law].diffusion(t[:, None], t)))
    expected = {"variance": c**2, "likelihood": g**2}
    assert expected.keys() == WEIGHTINGS.keys(), "a new weighting needs a line here"
    found = weightings([*LAWS].index(law), t)
    for name, lambda_ in expected.items():
        np.testing.assert_allclose(found[name], lambda_ / c**2, rtol=1e-12)


@pytest.mark.parametrize("size", [2, 100, 128, 1000])
def test_stratified_numbers_fill_every_cell_once(size):
    draw = lambda seed: stratified(jax.random.key(seed), size)
    for u in np.asarray(jax.jit(jax.vmap(draw))(np.arange(20)), np.float64):
        assert np.all((u >= 0) & (u < 1))
        cells = np.floor(u * size + 1e-4).astype(int) % size
        assert np.array_equal(np.sort(cells), np.arange(size))


def test_each_stratified_number_is_uniform():
    """Over keys, every position of the batch covers [0, 1), so no example keeps one noise level."""
    n = 4000
    draw = lambda: jax.vmap(lambda k: stratified(k, 8))(jax.random.split(jax.random.key(0), n))
    u = np.asarray(jax.jit(draw)())
    assert np.all(abs(u.mean(0) - 0.5) < 4 / np.sqrt(12 * n))
    assert np.all(abs((u**2).mean(0) - 1 / 3) < 4 * np.sqrt(4 / 45 / n))
