"""Denoising MCMC against the joint law of data and noise level, known in closed form."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closed_form import Empirical, Mixture
from scipy.special import polygamma
from scipy.stats import chi2, kstest

from samplers import ddim, heun, make_grid, sample
from samplers.denoising_mcmc import (
    Chain,
    Walk,
    denoise,
    denoising_mcmc,
    grids_from,
    langevin_move,
    make_move,
    window,
)
from samplers.grids import GRIDS
from samplers.levels import draw_level, make_levels, mixture_logits
from sde_lib import EDM, VE, VP, example_keys, fold_in, split

pytestmark = pytest.mark.usefixtures("x64", "strict_ranks")
LAW = EDM(t0=0.01, t1=50.0)
STD, CHAINS = 0.1, 400
ANGLES = np.arange(6) * np.pi / 3.0
CENTRES = 2.0 * np.stack([np.cos(ANGLES), np.sin(ANGLES)], axis=1)
RING = Mixture(np.full(6, 1 / 6), CENTRES, np.full(6, STD))


# These programs run for milliseconds and compile for seconds.
quick = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


@functools.cache
def ring_levels():
    return make_levels(LAW, 60, 0.05, 10.0)


@pytest.fixture
def levels():
    return ring_levels()


@pytest.fixture
def logits(levels):
    return mixture_logits(levels, CENTRES, STD)


def keys_of(n, seed=0):
    return example_keys(seed, jnp.arange(n))


def nearest(y):
    return np.argmin(np.sum((np.asarray(y)[..., None, :] - CENTRES) ** 2, axis=-1), axis=-1)


@jax.jit
def log_densities(y, levels):
    """log p_sigma(y) `(B, K)`."""
    return jax.vmap(lambda s: RING.logp(LAW, y, s), out_axes=1)(levels.sigma)


def normal(*shape):
    return jnp.asarray(np.random.default_rng(5).standard_normal(shape))


def test_logits_are_the_posterior_of_the_level(levels):
    """Up to a constant for each y, the mixture's own log density at each sigma; the grid is the
    same noise on every law."""
    y = jnp.asarray(np.random.default_rng(0).standard_normal((5, 2)))
    found = quick(mixture_logits(levels, CENTRES, STD))(y)
    truth = log_densities(y, levels)
    np.testing.assert_allclose(found - found[:, :1], truth - truth[:, :1], rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(np.diff(np.log(levels.sigma)), np.log(0.005) / 59, rtol=1e-9)
    for law in (VP(), VE()):
        other = make_levels(law, 60, 0.05, 10.0)
        np.testing.assert_allclose(np.exp(-law.lam(other.t)), levels.sigma, rtol=1e-9)
    # By default all of the law.
    np.testing.assert_allclose(make_levels(LAW, 3).sigma, [50.0, 0.5**0.5, 0.01], rtol=1e-9)


def test_gibbs_draws_the_posterior_and_argmax_its_mode(logits, levels):
    """Frequencies of 20000 draws at one y, by a chi-square test; arg-max needs no key."""
    y = jnp.asarray([[1.7, 0.3]])
    density = np.asarray(log_densities(y, levels)[0])
    truth = np.exp(density - density.max()) / np.sum(np.exp(density - density.max()))
    rows = jnp.broadcast_to(logits(y), (20_000, 60))
    for key in (keys_of(20_000), jax.random.key(0)):
        counts = np.bincount(draw_level(key, rows, "gibbs"), minlength=60)
        much = 20_000 * truth > 10.0
        statistic = np.sum((counts - 20_000 * truth)[much] ** 2 / (20_000 * truth[much]))
        assert statistic < chi2.isf(1e-3, much.sum()) and much.sum() > 30
        assert np.all(draw_level(key, rows, "argmax") == np.argmax(truth))


@pytest.mark.parametrize("dims", [8, 64, 512])
def test_error_of_the_likeliest_level(dims):
    """One data point: sigma is found as |y| / sqrt(d), whose logarithm has the variance
    psi'(d / 2) / 4, about 1 / (2 d)."""
    n, fine = 4000, make_levels(LAW, 2000)
    y = 0.7 * normal(n, dims)
    level = draw_level(jax.random.key(0), jax.jit(mixture_logits(fine, np.zeros((1, dims))))(y),
                       "argmax")  # fmt: skip
    error = np.log(fine.sigma[level] / 0.7)
    exact = np.log(np.linalg.norm(y, axis=1) / dims**0.5 / 0.7)
    # Half a cell of the grid, and what is rounded.
    assert np.max(np.abs(error - exact)) < 0.501 * np.log(5000.0) / 1999
    spread = np.sqrt(polygamma(1, dims / 2)) / 2
    assert abs(error.std() / spread - 1.0) < 4.0 * (0.6 / n) ** 0.5
    assert abs(spread * (2 * dims) ** 0.5 - 1.0) < 0.08


@pytest.mark.parametrize("law", [LAW, VP(), VE(sigma_max=60.0)], ids=["edm", "vp", "ve"])
def test_a_move_is_langevin_in_the_scale_of_the_data(law):
    """`y + eta / 2 a score(a y) + sqrt(eta) z`, the score that of x; so in y all laws are one."""
    levels = make_levels(law, 20, 0.05, 10.0)
    y, level = normal(8, 2), jnp.asarray([0, 3, 6, 9, 12, 15, 18, 19])
    keys = keys_of(8)
    moved = quick(
        lambda y: langevin_move(keys, law, levels, RING.predict(law), Chain(y, level), 0.03)
    )(y)
    a = law.coeffs(levels.t[level]).a[:, None]
    drift = 0.015 * a * quick(RING.score(law))(a * y, levels.t[level])
    np.testing.assert_allclose(moved, y + drift + 0.03**0.5 * law.noise(keys, y), rtol=1e-9)
    # In y alone, where the law no longer appears.
    sigma = levels.sigma[level]
    own = y + 0.015 * quick(RING.score(LAW))(y, sigma) + 0.03**0.5 * law.noise(keys, y)
    np.testing.assert_allclose(moved, own, rtol=1e-7, atol=1e-9)


def test_variance_of_a_move_and_where_it_is_stable():
    """One data point c: a move takes the variance sigma^2 about c to sigma^2 + eta^2 / 4 sigma^2.
    Repeated at one level it tends to sigma^2 / (1 - eta / 4 sigma^2) below eta = 4 sigma^2, and
    above grows by (1 - eta / 2 sigma^2)^2."""
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


@pytest.mark.parametrize("update", ["gibbs", "argmax"])
def test_chains_visit_every_component(update, levels, logits):
    """200 moves. From the data: all six equally often, and more chains have changed place the
    larger eta. From one component with eta = 0.5: the start is forgotten."""
    fresh = jnp.asarray(RING.draw(np.random.default_rng(0), CHAINS))
    starts = jnp.stack([fresh, fresh, fresh, jnp.broadcast_to(CENTRES[:1], (CHAINS, 2))])
    etas = jnp.asarray([0.02, 0.1, 0.5, 0.5])

    @jax.jit
    @jax.vmap
    def run(y, eta):
        move = make_move(LAW, levels, logits, RING.predict(LAW), update)
        chain = Chain(y, draw_level(keys_of(CHAINS, 1), logits(y), update))
        return window(keys_of(CHAINS), move, chain, jnp.full(200, eta))[0]

    ends = run(starts, etas)
    places = nearest(ends.y)
    for place in places:
        counts = np.bincount(place, minlength=6)
        assert np.sum((counts - CHAINS / 6) ** 2) / (CHAINS / 6) < chi2.isf(1e-3, 5), counts
    changed = np.mean(places != nearest(starts), axis=1)[:3]
    # Kim & Ye's problem in two dimensions, 400 chains: 0.47 to 0.86, each to about 0.05.
    assert np.all(np.diff(changed) > 0.0) and changed[0] > 0.4 and changed[2] < 5 / 6 + 0.06
    # The level is a function of y where it is the likeliest, and only there.
    likeliest = np.argmax(np.asarray(jax.vmap(logits)(ends.y)), axis=-1)
    assert np.all(likeliest == ends.level) == (update == "argmax")


def test_levels_of_the_gibbs_chain_are_uniform():
    """Small eta: the marginal of the level is the prior, even in log sigma, whatever the data; by
    a Kolmogorov-Smirnov test. And so are the moments of y given its level, after moves that began
    with every chain at the lowest level on one component."""
    n, levels = 1000, make_levels(LAW, 40, 0.3, 4.0)
    logits = mixture_logits(levels, CENTRES, STD)
    move = make_move(LAW, levels, logits, RING.predict(LAW), "gibbs")
    start = Chain(jnp.broadcast_to(CENTRES[:1], (n, 2)), jnp.full(n, 39, jnp.int32))
    end, _ = jax.jit(lambda key: window(key, move, start, jnp.full(800, 0.04)))(jax.random.key(0))
    # Spread within its cell, a uniform level is a uniform number.
    u = (np.asarray(end.level) + np.random.default_rng(0).random(n)) / 40.0
    assert kstest(u, "uniform").pvalue > 1e-3
    sigma = np.asarray(levels.sigma[end.level])
    square = np.sum(np.asarray(end.y) ** 2, axis=1) / (4.0 + 2.0 * (STD**2 + sigma**2))
    assert abs(square.mean() - 1.0) < 4.0 * square.std() / n**0.5
    assert np.all(np.abs(np.mean(end.y, axis=0)) < 4.0 * np.std(end.y, axis=0) / n**0.5)


def test_mixed_levels_are_separate_runs():
    """Each example on its own grid ends where it ends alone, by the grid of its own top."""
    law, eps = VP(), 0.01
    tops, x = jnp.asarray([0.9, 0.4, 0.05, eps]), normal(4, 2)
    run = lambda x, ts: sample(jax.random.key(0), RING.predict(law), heun(law), x, ts).x
    mixed = quick(lambda tops, grid: grids_from(law, tops, grid, 5, eps), static_argnums=1)
    ts = jnp.stack([mixed(tops, grid) for grid in GRIDS])
    together = quick(jax.vmap(run, in_axes=(None, 0)))(x, ts)
    assert np.all(ts[:, :, 3] == eps)
    np.testing.assert_allclose(together[:, 3], jnp.broadcast_to(x[3], (5, 2)), rtol=1e-14)
    alone = quick(run)
    for i, top in enumerate(tops[:3]):
        for j, grid in enumerate(GRIDS):
            own = make_grid(grid, law.replace(t1=float(top)), 5, eps)
            np.testing.assert_allclose(ts[j, :, i], own, rtol=1e-12)
            np.testing.assert_allclose(together[j, i], alone(x[i : i + 1], own)[0], rtol=1e-9)


def test_the_window_picks_the_least_sigma_and_leaves_the_chain(levels, logits):
    """Against the moves made one by one."""
    keys, n, etas = keys_of(6), 7, jnp.linspace(0.2, 0.05, 7)
    move = make_move(LAW, levels, logits, RING.predict(LAW), "gibbs")
    one = quick(lambda key, chain, eta: move(key, chain, eta))
    fold = quick(jax.vmap(jax.random.fold_in, in_axes=(0, None)))
    y = jnp.asarray(CENTRES) + 0.2 * normal(6, 2)
    # Begins at the very lowest level, which is not an output's.
    chain = start = Chain(y, jnp.full(6, 59, jnp.int32))
    seen = []
    for i in range(n):
        chain = one(fold(keys, i), chain, etas[i])
        seen.append(chain)
    end, best = quick(lambda c: window(keys, move, c, etas))(start)
    np.testing.assert_allclose(end.y, chain.y, rtol=1e-9)
    assert np.all(end.level == chain.level)
    history = np.stack([c.level for c in seen])
    assert np.all(levels.sigma[best.level] == np.min(levels.sigma[history], axis=0))
    for j in range(6):
        last = max(i for i in range(n) if history[i, j] == history[:, j].max())
        np.testing.assert_allclose(best.y[j], seen[last].y[j], rtol=1e-9)
    assert len({int(np.argmax(column)) for column in history.T}) > 1


def coarse(steps, eps):
    ts = make_grid("karras", LAW, steps, eps)
    return lambda key, predict, x: sample(key, predict, heun(LAW), x, ts, denoise=True)


def whole(levels, logits, outputs=3, sampler=heun):
    walk = Walk(0.1, n_skip=5, burn_in=((2, 0.5), (3, 0.1)), start_std=0.5)
    return denoising_mcmc(
        LAW, levels, logits, coarse(4, 0.05), sampler(LAW), walk, steps=3, eps=0.05,
        outputs=outputs,
    )  # fmt: skip


def test_the_whole_is_its_parts_and_counts_its_evaluations(levels, logits):
    """Six samples of two chains, by hand from the parts; every evaluation is counted."""
    calls = []

    def predict(x, t):
        jax.debug.callback(lambda: calls.append(1))
        return RING.predict(LAW)(x, t)

    keys, x = keys_of(6), 50.0 * normal(6, 2)
    chains = whole(levels, logits)
    result = quick(lambda x: chains(keys, predict, x))(x)
    jax.effects_barrier()
    start, burn, outputs, each = 4 * 2 + 1, 5, 3, 5 + 3 * 2 + 1
    assert len(calls) == start + burn + outputs * each
    assert float(result.nfe) == pytest.approx(each + (start + burn) / outputs)

    move = make_move(LAW, levels, logits, RING.predict(LAW), "argmax")
    begin_key, burn_key, walk_key = split(keys[::3], 3)
    run_key, noise_key, _ = split(begin_key, 3)
    y = coarse(4, 0.05)(run_key, RING.predict(LAW), x[::3]).x + 0.5 * LAW.noise(noise_key, x[::3])
    chain = Chain(y, jnp.argmax(logits(y), axis=1).astype(jnp.int32))
    by = quick(lambda key, chain, etas: window(key, move, chain, etas))
    ends = quick(
        lambda key, best: denoise(
            key, LAW, levels, RING.predict(LAW), heun(LAW), best, steps=3, eps=0.05
        )
    )
    chain, _ = by(burn_key, chain, jnp.asarray([0.5, 0.5, 0.1, 0.1, 0.1]))
    for i in range(3):
        move_key, end_key = split(fold_in(walk_key, i), 2)
        chain, best = by(move_key, chain, jnp.full(5, 0.1))
        end = ends(end_key, best)
        np.testing.assert_allclose(result.x[i::3], end.x, rtol=1e-8)
        np.testing.assert_allclose(result.trace[i::3], levels.sigma[best.level])


def test_a_chain_does_not_depend_on_its_batch(levels, logits):
    """Chain 1 of 3 is the same alone: samples 4 and 5 of 6, each chain giving two; with noise in
    the integrator as well."""
    chains = whole(levels, logits, 2, lambda law: ddim(law, eta=1.0))
    run = quick(lambda key, x: chains(key, RING.predict(LAW), x).x)
    keys, x = keys_of(6), 50.0 * normal(6, 2)
    np.testing.assert_allclose(run(keys, x)[4:], run(keys[4:], x[4:]), rtol=1e-9)
    assert np.all(run(keys, x)[4] != run(keys, x)[5])


def test_fewer_evaluations_than_the_same_integrator_from_the_top():
    """Six components in 32 dimensions. The variance about the nearest one tends to that of the
    data as the steps become many; Heun with 11 evaluations a sample is off by less than a quarter
    of what it is from sigma = 50."""
    n, dims = 200, 32
    centres = np.random.default_rng(1).standard_normal((6, dims))
    data = Mixture(np.full(6, 1 / 6), centres, np.full(6, STD))
    levels = make_levels(LAW, 60, 0.01, 10.0)
    logits = mixture_logits(levels, centres, STD)
    walk = Walk(0.02, n_skip=4, burn_in=((10, 0.1), (10, 0.02)))

    def chains(steps):
        start = coarse(20, 0.01)
        run = denoising_mcmc(
            LAW, levels, logits, start, heun(LAW), walk, steps=steps, eps=0.01
        )  # fmt: skip
        return jax.jit(lambda x: run(keys, data.predict(LAW), x).x)(x)

    def excess(y):
        """Over the variance of `E[x0 | x_eps]` about its component."""
        gap = np.min(np.sum((np.asarray(y)[:, None] - centres[None]) ** 2, -1), 1)
        return np.mean(gap) / (dims * STD**2) * (1.0 + 0.01**2 / STD**2) - 1.0

    keys, x = keys_of(n), 50.0 * normal(n, dims)
    short = coarse(5, 0.01)
    plain = quick(lambda x: short(keys, data.predict(LAW), x))(x)
    assert plain.nfe == walk.n_skip + 2 * 3 + 1
    ours, fine, theirs = (excess(y) for y in (chains(3), chains(40), plain.x))
    assert abs(fine) < 4.0 * (2.0 / (dims * n)) ** 0.5
    assert abs(ours) < 0.25 * abs(theirs)


def test_refusals(levels, logits):
    def make(eta=0.1, eps=0.05, steps=3, outputs=1, **walk):
        return denoising_mcmc(
            LAW, levels, logits, coarse(4, 0.05), heun(LAW), Walk(eta, **walk),
            steps=steps, eps=eps, outputs=outputs,
        )  # fmt: skip

    for change, message in (
        ({"eta": 0.0}, "eta is 0.0"),
        ({"burn_in": ((3, float("nan")),)}, "eta is nan"),
        ({"burn_in": ((-1, 0.1),)}, "burn_in has -1"),
        ({"n_skip": 0}, "n_skip is 0"),
        ({"update": "mode"}, "update is 'mode'"),
        ({"start_std": -1.0}, "start_std is -1"),
        ({"eps": 0.2}, "eps is 0.2 and the least noisy level is at t = 0.05"),
        ({"eps": 0.001}, "not below t0 = 0.01"),
        ({"steps": 0}, "steps is 0"),
    ):
        with pytest.raises(ValueError, match=message):
            make(**change)
    with pytest.raises(ValueError, match="batch is 3 and each chain gives 2"):
        make(outputs=2)(jax.random.key(0), RING.predict(LAW), jnp.zeros((3, 2)))
    for count, ends, message in (
        (1, (0.05, 10.0), "levels is 1"),
        (9, (10.0, 0.05), "from 10.0 to 0.05"),
        (9, (0.001, 10.0), r"within \[0.01, 50\]"),
    ):
        with pytest.raises(ValueError, match=message):
            make_levels(LAW, count, *ends)
