"""Denoising MCMC: its parts, its number of evaluations, and its samples."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closed_form import Mixture
from ring import CENTRES, LAW, RING, STD, keys_of, normal, ring_levels

from samplers import heun, make_grid, sample
from samplers.grids import GRIDS
from samplers.mcmc.denoising_mcmc import (
    FORMULAS,
    Descent,
    begin,
    denoise,
    denoising_mcmc,
    grids_from,
)
from samplers.mcmc.langevin_gibbs import Chain, Walk, make_move, window
from samplers.mcmc.levels import make_levels, mixture_logits
from samplers.steps.edm import edm
from sde_lib import VP, example_keys, fold_in, split

pytestmark = pytest.mark.usefixtures("x64", "strict_ranks")


@pytest.fixture
def levels():
    return ring_levels()


@pytest.fixture
def logits(levels):
    return mixture_logits(levels, CENTRES, STD)


def test_mixed_levels_are_separate_runs():
    """An example with a grid from its own top level ends as in a run of its own."""
    law, eps = VP(), 0.01
    tops, x = np.array([0.9, 0.4, 0.05, eps]), np.asarray(normal(4, 2))
    run = lambda x, ts: sample(jax.random.key(0), RING.predict(law), heun(law), x, ts).x

    @jax.jit
    def mixed(tops, x):
        ts = jnp.stack([grids_from(law, tops, grid, 5, eps) for grid in FORMULAS])
        return ts, jax.vmap(run, in_axes=(None, 0))(x, ts)

    # Here all examples have the same times.
    alone = jax.jit(jax.vmap(run, in_axes=(None, 0)))
    own = jax.jit(lambda t1: [GRIDS[grid](law.replace(t1=t1), 5, eps) for grid in FORMULAS])
    ts, together = map(np.asarray, mixed(tops, x))
    assert np.all(ts[:, :, 3] == eps)
    np.testing.assert_allclose(together[:, 3], np.broadcast_to(x[3], (5, 2)), rtol=1e-14)
    for i, top in enumerate(tops[:3]):
        np.testing.assert_allclose(ts[:, :, i], own(top), rtol=1e-12)
        ends = np.asarray(alone(x, ts[:, :, i]))
        np.testing.assert_allclose(together[:, i], ends[:, i], rtol=1e-9)


def coarse(steps, eps):
    ts = make_grid("karras", LAW, steps, eps)
    return lambda key, predict, x: sample(key, predict, heun(LAW), x, ts, denoise=True)


CALLS = []
# An integrator with noise and two evaluations per step.
DOWN = Descent(edm(LAW, s_churn=0.6), steps=3, eps=0.05)


def counted(x, t):
    jax.debug.callback(lambda: CALLS.append(1))
    return RING.predict(LAW)(x, t)


@functools.cache
def whole():
    """Return `(order, x) -> SampleResult` for three samples of each of two chains.

    `order` has the numbers of the keys of the six samples.
    """
    walk = Walk(0.1, n_skip=5, burn_in=((2, 0.5), (3, 0.1)), start_std=0.5)
    logits = mixture_logits(ring_levels(), CENTRES, STD)
    chains = denoising_mcmc(LAW, ring_levels(), logits, coarse(4, 0.05), walk, DOWN, 3)
    return jax.jit(lambda order, x: chains(example_keys(0, order), counted, x))


def test_the_whole_is_its_parts_and_counts_its_evaluations(levels, logits):
    """Six samples of two chains equal a run put together from the parts.

    Every evaluation is counted.
    """
    order, x = np.arange(6), 50.0 * np.asarray(normal(6, 2))
    CALLS.clear()
    result = jax.device_get(whole()(order, x))
    jax.effects_barrier()
    start, burn, outputs, each = 4 * 2 + 1, 5, 3, 5 + 3 * 2 + 1
    assert len(CALLS) == start + burn + outputs * each
    assert float(result.nfe) == pytest.approx(each + (start + burn) / outputs)

    exact = RING.predict(LAW)
    move = make_move(LAW, levels, logits, exact, "argmax")

    @jax.jit
    def first_chain(order, x):
        """Return the chain at its start, and the keys of the burn-in and of three outputs."""
        begin_key, burn_key, walk_key = split(example_keys(0, order)[::3], 3)
        run_key, noise_key, _ = split(begin_key, 3)
        y = coarse(4, 0.05)(run_key, exact, x[::3]).x + 0.5 * LAW.noise(noise_key, x[::3])
        chain = Chain(y, jnp.argmax(logits(y), axis=1).astype(jnp.int32))
        return chain, burn_key, [split(fold_in(walk_key, i), 2) for i in range(3)]

    by = jax.jit(lambda key, chain, etas: window(key, move, chain, etas))
    ends = jax.jit(
        lambda key, best: (
            denoise(key, LAW, levels, exact, DOWN, best).x,
            levels.sigma[best.level],
        )
    )
    chain, burn_key, output_keys = first_chain(order, x)
    chain, _ = by(burn_key, chain, np.array([0.5, 0.5, 0.1, 0.1, 0.1]))
    for i, (move_key, end_key) in enumerate(output_keys):
        chain, best = by(move_key, chain, np.full(5, 0.1))
        end, sigma = ends(end_key, best)
        np.testing.assert_allclose(result.x[i::3], end, rtol=1e-8)
        np.testing.assert_allclose(result.trace[i::3], sigma)


def test_a_chain_does_not_depend_on_its_batch():
    """Samples 3 to 5 are the same at another position and beside another chain.

    The integrator has noise too.
    """
    x = 50.0 * np.asarray(normal(6, 2))
    first = np.asarray(whole()(np.arange(6), x).x)
    moved = np.asarray(whole()(np.array([3, 4, 5, 7, 8, 9]), np.concatenate([x[3:], -x[:3]])).x)
    np.testing.assert_allclose(first[3:], moved[:3], rtol=1e-9)
    assert np.all(first[3] != first[4]) and np.all(first[4] != first[5])


def test_fewer_evaluations_than_the_same_integrator_from_the_top():
    """With 11 evaluations, a chain's error is less than a quarter of Heun's from sigma = 50.

    The data are six components in 32 dimensions. The error is that of the variance about the
    nearest component, which tends to the data's variance for many steps.
    """
    n, dims = 200, 32
    keys = keys_of(n)
    centres = np.random.default_rng(1).standard_normal((6, dims))
    data = Mixture(np.full(6, 1 / 6), centres, np.full(6, STD))
    levels = make_levels(LAW, 60, 0.01, 10.0)
    logits = mixture_logits(levels, centres, STD)
    walk = Walk(0.02, n_skip=4)

    predict = data.predict(LAW)
    move = make_move(LAW, levels, logits, predict, walk.update)

    @jax.jit
    def outputs(keys, x):
        """Return outputs of 3 and of 40 steps from one state per chain; of 5 from the top."""
        begin_key, burn_key, walk_key = split(keys, 3)
        _, chain = begin(begin_key, logits, coarse(20, 0.01), predict, x, walk)
        chain, _ = window(burn_key, move, chain, jnp.repeat(jnp.array([0.1, 0.02]), 10))
        _, best = window(walk_key, move, chain, jnp.full(walk.n_skip, walk.eta))
        short, long = (
            denoise(keys, LAW, levels, predict, Descent(heun(LAW), steps, 0.01), best)
            for steps in (3, 40)
        )
        return short, long, coarse(5, 0.01)(keys, predict, x)

    def excess(y):
        """Return the relative excess over the variance of `E[x0 | x_eps]` about its component."""
        gap = np.min(np.sum((np.asarray(y)[:, None] - centres[None]) ** 2, -1), 1)
        return np.mean(gap) / (dims * STD**2) * (1.0 + 0.01**2 / STD**2) - 1.0

    results = outputs(keys, 50.0 * np.asarray(normal(n, dims)))
    assert results[2].nfe == walk.n_skip + results[0].nfe == 11
    ours, fine, theirs = (excess(result.x) for result in results)
    assert abs(fine) < 4.0 * (2.0 / (dims * n)) ** 0.5
    assert abs(ours) < 0.25 * abs(theirs)


def test_every_grid_is_a_formula_or_refused():
    """A new grid is in the list of formulas, or refuses a start time per example."""
    assert set(FORMULAS) == GRIDS.keys() - {"two_stage", "learned"}


def test_refusals(levels, logits):
    def make(eta=0.1, eps=0.05, steps=3, outputs=1, grid="karras", **walk):
        return denoising_mcmc(
            LAW, levels, logits, coarse(4, 0.05), Walk(eta, **walk),
            Descent(heun(LAW), steps, eps, grid), outputs,
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
        make(outputs=2)(jax.random.key(0), RING.predict(LAW), np.zeros((3, 2)))
    for count, ends, message in (
        (1, (0.05, 10.0), "levels is 1"),
        (9, (10.0, 0.05), "from 10.0 to 0.05"),
        (9, (0.001, 10.0), r"within \[0.01, 50\]"),
    ):
        with pytest.raises(ValueError, match=message):
            make_levels(LAW, count, *ends)
