"""Denoising MCMC: its parts, what it costs, and its samples against the law of the data."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closed_form import Mixture
from ring import CENTRES, LAW, RING, STD, keys_of, normal, quick, ring_levels

from samplers import ddim, heun, make_grid, sample
from samplers.denoising_mcmc import FORMULAS, denoise, denoising_mcmc, grids_from
from samplers.grids import GRIDS
from samplers.langevin_gibbs import Chain, Walk, make_move, window
from samplers.levels import make_levels, mixture_logits
from sde_lib import VP, fold_in, split

pytestmark = pytest.mark.usefixtures("x64", "strict_ranks")


@pytest.fixture
def levels():
    return ring_levels()


@pytest.fixture
def logits(levels):
    return mixture_logits(levels, CENTRES, STD)


def test_mixed_levels_are_separate_runs():
    """Each example on its own grid ends where it ends alone, by the grid of its own top."""
    law, eps = VP(), 0.01
    tops, x = jnp.asarray([0.9, 0.4, 0.05, eps]), normal(4, 2)
    run = lambda x, ts: sample(jax.random.key(0), RING.predict(law), heun(law), x, ts).x
    mixed = quick(lambda tops, grid: grids_from(law, tops, grid, 5, eps), static_argnums=1)
    ts = jnp.stack([mixed(tops, grid) for grid in FORMULAS])
    together = quick(jax.vmap(run, in_axes=(None, 0)))(x, ts)
    assert np.all(ts[:, :, 3] == eps)
    np.testing.assert_allclose(together[:, 3], jnp.broadcast_to(x[3], (5, 2)), rtol=1e-14)
    alone = quick(run)
    for i, top in enumerate(tops[:3]):
        for j, grid in enumerate(FORMULAS):
            own = make_grid(grid, law.replace(t1=float(top)), 5, eps)
            np.testing.assert_allclose(ts[j, :, i], own, rtol=1e-12)
            np.testing.assert_allclose(together[j, i], alone(x[i : i + 1], own)[0], rtol=1e-9)


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


def test_every_grid_is_a_formula_or_refused():
    """A new grid belongs in the list, or cannot take the time of each example."""
    assert set(FORMULAS) == GRIDS.keys() - {"two_stage", "learned"}


def test_refusals(levels, logits):
    def make(eta=0.1, eps=0.05, steps=3, outputs=1, grid="karras", **walk):
        return denoising_mcmc(
            LAW, levels, logits, coarse(4, 0.05), heun(LAW), Walk(eta, **walk),
            steps=steps, eps=eps, outputs=outputs, grid=grid,
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
        ({"grid": "learned"}, "The grid is 'learned'; each chain .* take one of uniform"),
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
