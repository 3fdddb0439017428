"""Denoising MCMC: a chain over data and noise level, whose states are denoised to samples.

Kim & Ye 2023 (Denoising MCMC for accelerating diffusion-based generative models, ICML,
arXiv 2209.14593), in the form they call Denoising Langevin Gibbs. The chain is that of
`langevin_gibbs.py`. The chain stays near the data, so the reverse process of an output starts at a
small sigma. An output takes `n_skip` moves, the state of least sigma among them, the reverse
process from that state, and one conditional mean at its end. The chain then continues from its own
state, not from the output.

Successive outputs of a chain resemble each other. A small eta and n_skip give quality; large ones,
or many chains, give diversity.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from samplers.base import SampleFn, Sampler, SampleResult, finished, sample
from samplers.grids import FORMULAS, GRIDS
from samplers.mcmc.langevin_gibbs import Chain, Walk, check_walk, make_move, window
from samplers.mcmc.levels import LevelLogitsFn, Levels, draw_level
from sde_lib import AffinePath, expand, fold_in, normal_like, split
from sde_lib.prediction import Cond, PredictFn, bound


class Descent(NamedTuple):
    """The integrator from the level of a chain to data: `steps` steps of any sampler down the grid
    of that name, one of `FORMULAS`, to the time `eps`."""

    sampler: Sampler
    steps: int
    eps: float
    grid: str = "karras"


def grids_from(path: AffinePath, tops: Array, grid: str, steps: int, eps: float) -> Array:
    """One grid per example, `(steps + 1, B)`, from the example's time in `tops` `(B,)` to eps.

    `grid` is a name in `FORMULAS`. A top at or below eps gives steps of length zero.
    """
    make = lambda top: GRIDS[grid](path.replace(t1=top), steps, eps)
    ts = jax.vmap(make, out_axes=1)(tops)
    return jnp.where(tops[None] > eps, ts, eps)


def denoise(
    key: Array,
    path: AffinePath,
    levels: Levels,
    predict: PredictFn,
    down: Descent,
    chain: Chain,
) -> SampleResult:
    """The reverse process from each chain's own level to eps, and the conditional mean at eps.

    Every chain takes `down.steps` steps at any level: `down.steps nfe + 1` evaluations.
    """
    ts = grids_from(path, levels.t[chain.level], down.grid, down.steps, down.eps)
    x = expand(path.coeffs(ts[0]).a, chain.y) * chain.y
    return sample(key, predict, down.sampler, x, ts, denoise=True)


def denoising_mcmc(
    path: AffinePath,
    levels: Levels,
    logits: LevelLogitsFn,
    start: SampleFn,
    walk: Walk,
    down: Descent,
    outputs: int = 1,
) -> SampleFn:
    """Denoising Langevin Gibbs as `(key, predict, x, cond=None) -> SampleResult`.

    Args:
        levels, logits: the grid of levels and log p(level | y) on it, exact or a classifier's.
        start: a coarse full run that ends with data, such as 20 steps of Heun with denoising. A
            chain begins at the result of `start` plus `start_std z`.
        walk: how the chain moves between two outputs.
        down: the integrator from a chain's level to data.
        outputs: the number of samples that one chain gives, one after the other.

    x is `(B, ...)` from the prior, and B a multiple of `outputs`. Chain j starts from example
    `j outputs`, draws only from the key of that example, and gives the samples `j outputs` to
    `(j + 1) outputs - 1`. With one key per example a chain is thus the same in any batch. In the
    result, `nfe` is the total cost of a sample, `n_skip + steps nfe + 1` plus its share of the
    start and the burn-in; `trace` is the sigma `(B,)` from which each sample was denoised; `failed`
    marks samples whose `start` failed or that are not finite.

    Raises:
        ValueError: for numbers out of range, a lowest level below eps, another grid, or a batch
            that is not a multiple of `outputs`, or conditions for several outputs of one chain.
    """
    check_walk(walk)
    check_run(path, levels, down, outputs)
    burn_in = [eta for number, eta in walk.burn_in for _ in range(number)]
    each = walk.n_skip + down.steps * down.sampler.nfe + 1

    def run(key: Array, predict: PredictFn, x: Array, cond: Cond = None) -> SampleResult:
        check_batch(x.shape[0], outputs, cond)
        heads, predict = x[::outputs], bound(predict, cond)
        begin_key, burn_key, walk_key = split(key if key.ndim == 0 else key[::outputs], 3)
        move = make_move(path, levels, logits, predict, walk.update)
        first, chain = begin(begin_key, logits, start, predict, heads, walk)
        chain, _ = window(burn_key, move, chain, jnp.asarray(burn_in, x.dtype))
        etas = jnp.full(walk.n_skip, walk.eta)

        def output(chain: Chain, i: Array):
            move_key, end_key = split(fold_in(walk_key, i), 2)
            chain, best = window(move_key, move, chain, etas)
            end = denoise(end_key, path, levels, predict, down, best)
            return chain, (end.x, levels.sigma[best.level])

        _, (found, sigma) = jax.lax.scan(output, chain, jnp.arange(outputs))
        share = (jnp.asarray(first.nfe) + len(burn_in)) / outputs
        of_each = lambda v: jnp.repeat(jnp.asarray(v), outputs) if jnp.ndim(v) else v
        return finished(
            jnp.moveaxis(found, 0, 1).reshape(x.shape),
            sigma.T.reshape(-1),
            of_each(share + each),
            of_each(first.failed),
        )

    return run


def begin(
    key: Array, logits: LevelLogitsFn, start: SampleFn, predict: PredictFn, x: Array, walk: Walk
) -> tuple[SampleResult, Chain]:
    """The result of the coarse run from x, and the chain that begins at its noised result."""
    run_key, noise_key, level_key = split(key, 3)
    first = start(run_key, predict, x)
    y = first.x + walk.start_std * normal_like(noise_key, first.x)
    return first, Chain(y, draw_level(level_key, logits(y), walk.update))


def check_run(path: AffinePath, levels: Levels, down: Descent, outputs: int) -> None:
    _, steps, eps, grid = down
    if grid not in FORMULAS:
        raise ValueError(
            f"The grid is {grid!r}; each chain starts from a level of its own, which needs a grid "
            f"that is a formula: take one of {', '.join(FORMULAS)}."
        )
    if steps < 1 or outputs < 1:
        raise ValueError(f"steps is {steps} and outputs {outputs}; take at least 1 of each.")
    with jax.ensure_compile_time_eval():
        lowest = float(levels.t[-1])
    if not path.t0 / (1.0 + 1e-5) <= eps <= lowest * (1.0 + 1e-5):
        raise ValueError(
            f"eps is {eps} and the least noisy level is at t = {lowest:.6g}; end at or below it, "
            f"and not below t0 = {path.t0}."
        )


def check_batch(size: int, outputs: int, cond: Cond) -> None:
    if size % outputs:
        raise ValueError(
            f"The batch is {size} and each chain gives {outputs} samples; take a multiple of that."
        )
    if cond is not None and outputs > 1:
        raise ValueError(
            f"Each chain gives {outputs} samples, which share its condition, and samples have a "
            "condition of their own; take outputs = 1."
        )
