"""The chain of denoising MCMC against the joint law of data and noise level, in closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closed_form import Empirical
from ring import CENTRES, LAW, RING, STD, keys_of, nearest, normal, ring_levels
from scipy.special import polygamma
from scipy.stats import chi2, kstest

from samplers.mcmc.langevin_gibbs import Chain, langevin_move, make_move, window
from samplers.mcmc.levels import draw_level, make_levels, mixture_logits
from sde_lib import EDM, VE, VP

pytestmark = pytest.mark.usefixtures("x64", "strict_ranks")
CHAINS = 400


@pytest.fixture
def levels():
    return ring_levels()


@pytest.fixture
def logits(levels):
    return mixture_logits(levels, CENTRES, STD)


def log_densities(y, levels):
    """Return log p_sigma(y) at each of K levels, `(B, K)`."""
    return np.stack([RING.logp(LAW, y, s) for s in np.asarray(levels.sigma)], axis=1)


def test_logits_are_the_posterior_of_the_level(levels):
    """The logits are the mixture's log density at each sigma, up to a constant for each y.

    The grid has the same noise levels for every law.
    """
    y = np.random.default_rng(0).standard_normal((5, 2))
    found = np.asarray(jax.jit(mixture_logits(levels, CENTRES, STD))(y))
    truth, sigma = log_densities(y, levels), np.asarray(levels.sigma)
    np.testing.assert_allclose(found - found[:, :1], truth - truth[:, :1], rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(np.diff(np.log(sigma)), np.log(0.005) / 59, rtol=1e-9)
    for law in (VP(), VE()):
        other = make_levels(law, 60, 0.05, 10.0)
        np.testing.assert_allclose(np.exp(-np.asarray(law.lam(other.t))), sigma, rtol=1e-9)
    # By default the grid covers all noise levels of the law.
    np.testing.assert_allclose(make_levels(LAW, 3).sigma, [50.0, 0.5**0.5, 0.01], rtol=1e-9)


def test_gibbs_draws_the_posterior_and_argmax_its_mode(logits, levels):
    """20000 draws at one y pass a chi-square test; argmax gives the mode and needs no key."""
    y, n = np.array([[1.7, 0.3]]), 20_000
    density = log_densities(y, levels)[0]
    truth = np.exp(density - density.max()) / np.sum(np.exp(density - density.max()))

    @jax.jit
    def draws(keys, key, y):
        rows = jnp.broadcast_to(logits(y), (n, 60))
        likeliest = [draw_level(k, rows, "argmax") for k in (keys, key)]
        return [draw_level(k, rows, "gibbs") for k in (keys, key)], likeliest

    of_each, likeliest = jax.device_get(draws(keys_of(n), jax.random.key(0), y))
    for levels_drawn in of_each:
        counts = np.bincount(levels_drawn, minlength=60)
        much = n * truth > 10.0
        statistic = np.sum((counts - n * truth)[much] ** 2 / (n * truth[much]))
        assert statistic < chi2.isf(1e-3, much.sum()) and much.sum() > 30
    assert np.all(np.stack(likeliest) == np.argmax(truth))


@pytest.mark.parametrize("dims", [8, 64, 512])
def test_error_of_the_likeliest_level(dims):
    """For one data point the likeliest level is |y| / sqrt(d).

    Its logarithm has the variance psi'(d / 2) / 4, about 1 / (2 d).
    """
    n, fine = 4000, make_levels(LAW, 2000)
    y = 0.7 * np.asarray(normal(n, dims))
    logits = mixture_logits(fine, np.zeros((1, dims)))
    level = jax.jit(lambda y: draw_level(jax.random.key(0), logits(y), "argmax"))(y)
    error = np.log(np.asarray(fine.sigma)[np.asarray(level)] / 0.7)
    exact = np.log(np.linalg.norm(y, axis=1) / dims**0.5 / 0.7)
    # The tolerance is half a cell of the grid, and the variance of rounding to the grid.
    assert np.max(np.abs(error - exact)) < 0.501 * np.log(5000.0) / 1999
    spread = np.sqrt(polygamma(1, dims / 2)) / 2
    assert abs(error.std() / spread - 1.0) < 4.0 * (0.6 / n) ** 0.5
    assert abs(spread * (2 * dims) ** 0.5 - 1.0) < 0.08


@pytest.mark.parametrize("law", [LAW, VP(), VE(sigma_max=60.0)], ids=["edm", "vp", "ve"])
def test_a_move_is_langevin_in_the_scale_of_the_data(law):
    """A move is `y + eta / 2 a score(a y) + sqrt(eta) z` with the score of x.

    So in y all laws give the same move.
    """
    levels = make_levels(law, 20, 0.05, 10.0)
    y, level = np.asarray(normal(8, 2)), np.array([0, 3, 6, 9, 12, 15, 18, 19], np.int32)

    @jax.jit
    def move(keys, y, level):
        chain = Chain(y, level)
        moved = langevin_move(keys, law, levels, RING.predict(law), chain, 0.03)
        return moved, law.noise(keys, y)

    moved, noise = map(np.asarray, move(keys_of(8), y, level))
    sigma, t = np.asarray(levels.sigma)[level], np.asarray(levels.t)[level]
    a = np.asarray(law.coeffs(t).a)[:, None]
    drift = 0.015 * a * RING.score(law)(a * y, t)
    np.testing.assert_allclose(moved, y + drift + 0.03**0.5 * noise, rtol=1e-9)
    # The same formula in y, which does not contain the law.
    own = y + 0.015 * RING.score(LAW)(y, sigma) + 0.03**0.5 * noise
    np.testing.assert_allclose(moved, own, rtol=1e-7, atol=1e-9)


def test_variance_of_a_move_and_where_it_is_stable():
    """For one data point c, the variance about c after moves has a closed form.

    A move takes the variance sigma^2 to sigma^2 + eta^2 / 4 sigma^2. Repeated moves at one level
    tend to sigma^2 / (1 - eta / 4 sigma^2) if eta < 4 sigma^2; for larger eta the variance grows by
    the factor (1 - eta / 2 sigma^2)^2 in each move.
    """
    c, n, sigma = np.array([0.4, -1.0]), 20_000, 0.6
    law, data = EDM(t0=0.01, t1=2.0), Empirical(np.array([[0.4, -1.0]]))
    levels = make_levels(law, 2, sigma, 1.0)
    level = jnp.ones(n, jnp.int32)

    @jax.jit
    @jax.vmap
    def spread(ratio):
        eta = ratio * sigma**2
        y = c[None] + sigma * normal(n, 2)

        def again(y, i):
            key = jax.random.fold_in(jax.random.key(7), i)
            y = langevin_move(key, law, levels, data.predict(law), Chain(y, level), eta)
            return y, jnp.mean((y - c[None]) ** 2)

        return jax.lax.scan(again, y, jnp.arange(60))[1]

    ratios = np.array([0.3, 1.0, 2.0, 3.4, 4.4])
    found = np.asarray(spread(jnp.asarray(ratios))) / sigma**2
    bar = 5.0 * (2.0 / (2 * n)) ** 0.5
    np.testing.assert_allclose(found[:, 0], 1.0 + ratios**2 / 4.0, rtol=bar)
    np.testing.assert_allclose(found[:4, -1], 1.0 / (1.0 - ratios[:4] / 4.0), rtol=bar)
    gain = (1.0 - 4.4 / 2.0) ** 2
    limit = 1.0 / (1.0 - 1.1)
    np.testing.assert_allclose(found[4, -1], limit + gain**60 * (1.0 - limit), rtol=bar)


# Runs longer than it compiles.
@pytest.mark.optimised
@pytest.mark.parametrize("update", ["gibbs", "argmax"])
def test_chains_visit_every_component(update, levels, logits):
    """After 200 moves from the data, chains are at all six components equally often.

    More chains have changed their component for larger eta. From one component with eta = 0.5, the
    chains forget their start.
    """
    fresh = RING.draw(np.random.default_rng(0), CHAINS)
    starts = np.stack([fresh, fresh, fresh, np.broadcast_to(CENTRES[:1], (CHAINS, 2))])
    etas = np.array([0.02, 0.1, 0.5, 0.5])
    from_keys = keys_of(CHAINS), keys_of(CHAINS, 1)

    @jax.jit
    @jax.vmap
    def run(y, eta):
        move = make_move(LAW, levels, logits, RING.predict(LAW), update)
        chain = Chain(y, draw_level(from_keys[1], logits(y), update))
        end = window(from_keys[0], move, chain, jnp.full(200, eta))[0]
        return end, jnp.argmax(logits(end.y), axis=-1)

    ends, likeliest = jax.device_get(run(starts, etas))
    places = nearest(ends.y)
    for place in places:
        counts = np.bincount(place, minlength=6)
        assert np.sum((counts - CHAINS / 6) ** 2) / (CHAINS / 6) < chi2.isf(1e-3, 5), counts
    changed = np.mean(places != nearest(starts), axis=1)[:3]
    # Kim & Ye's problem in two dimensions gives 0.47 to 0.86 with 400 chains, each to about 0.05.
    assert np.all(np.diff(changed) > 0.0) and changed[0] > 0.4 and changed[2] < 5 / 6 + 0.06
    # The level is a function of y where it is the likeliest, and only there.
    assert np.all(likeliest == ends.level) == (update == "argmax")


# Runs for longer than it compiles.
@pytest.mark.optimised
def test_levels_of_the_gibbs_chain_are_uniform():
    """With small eta, the levels of a Gibbs chain have the prior's law, even in log sigma.

    This holds for any data, and is tested by a Kolmogorov-Smirnov test. The moments of y given its
    level are right too. The chains start at the lowest level on one component.
    """
    n, levels = 1000, make_levels(LAW, 40, 0.3, 4.0)
    logits = mixture_logits(levels, CENTRES, STD)
    move = make_move(LAW, levels, logits, RING.predict(LAW), "gibbs")
    start = Chain(np.broadcast_to(CENTRES[:1], (n, 2)), np.full(n, 39, np.int32))
    run = jax.jit(lambda key, start: window(key, move, start, jnp.full(800, 0.04))[0])
    end = jax.device_get(run(jax.random.key(0), start))
    # A uniform level, moved uniformly within its cell, is a uniform number.
    u = (np.asarray(end.level) + np.random.default_rng(0).random(n)) / 40.0
    assert kstest(u, "uniform").pvalue > 1e-3
    sigma = np.asarray(levels.sigma)[end.level]
    square = np.sum(np.asarray(end.y) ** 2, axis=1) / (4.0 + 2.0 * (STD**2 + sigma**2))
    assert abs(square.mean() - 1.0) < 4.0 * square.std() / n**0.5
    assert np.all(np.abs(np.mean(end.y, axis=0)) < 4.0 * np.std(end.y, axis=0) / n**0.5)


def test_the_window_picks_the_least_sigma_and_leaves_the_chain(levels, logits):
    """A window equals its moves made one by one, and returns the state of the least sigma."""
    keys, n, etas = keys_of(6), 7, np.linspace(0.2, 0.05, 7)
    move = make_move(LAW, levels, logits, RING.predict(LAW), "gibbs")
    fold = jax.vmap(jax.random.fold_in, in_axes=(0, None))
    one = jax.jit(lambda keys, i, chain, eta: move(fold(keys, i), chain, eta))
    y = CENTRES + 0.2 * np.asarray(normal(6, 2))
    # The chain begins at the lowest level; the start itself is not a candidate for the output.
    chain = start = Chain(y, np.full(6, 59, np.int32))
    seen = []
    for i in range(n):
        chain = one(keys, i, chain, etas[i])
        seen.append(jax.device_get(chain))
    chain = seen[-1]
    end, best = jax.device_get(jax.jit(lambda c: window(keys, move, c, etas))(start))
    np.testing.assert_allclose(end.y, chain.y, rtol=1e-9)
    assert np.all(end.level == chain.level)
    history = np.stack([c.level for c in seen])
    sigma = np.asarray(levels.sigma)
    assert np.all(sigma[best.level] == np.min(sigma[history], axis=0))
    for j in range(6):
        last = max(i for i in range(n) if history[i, j] == history[:, j].max())
        np.testing.assert_allclose(best.y[j], seen[last].y[j], rtol=1e-9)
    assert len({int(np.argmax(column)) for column in history.T}) > 1
