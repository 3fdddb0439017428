"""Denoising MCMC: a chain over data and noise level, whose states are denoised from where they are.

Kim & Ye 2023 (Denoising MCMC for accelerating diffusion-based generative models, ICML,
arXiv 2209.14593), in the form they call Denoising Langevin Gibbs. The chain targets
`p(y, sigma) = p(sigma) p_sigma(y)`, `y = x0 + sigma z`, by turns of

    Langevin    y <- y + eta / 2 grad log p_sigma(y) + sqrt(eta) z      eta in units of y^2
    level       sigma from p(sigma | y), drawn (Gibbs) or the likeliest ("argmax")

It stays near the data, so an output needs an integrator from a small sigma only: `n_skip` moves,
the state of least sigma among them, the reverse process from there, one conditional mean at its
end. For any affine law `y = x / a`, `sigma = c / a`, and `grad log p_sigma(y) = -eps / sigma`.

The move is not adjusted: for one data point it takes the variance `sigma^2` of the noise to
`sigma^2 + eta^2 / (4 sigma^2)`, and is stable for `eta < 4 sigma^2` only. Where eta is larger, y is
thrown out and the level update finds a larger sigma. Successive outputs of a chain resemble each
other; quality wants a small eta and n_skip, diversity large ones or many chains.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from samplers.base import SampleFn, Sampler, SampleResult, sample
from samplers.grids import GRIDS
from samplers.levels import UPDATES, Levels, LogitsFn, draw_level
from sde_lib import AffinePath, expand, fold_in, normal_like, split
from sde_lib.prediction import PredictFn


class Chain(NamedTuple):
    """States of B chains: `y = x / a` `(B, ...)` and `level` `(B,)`, int32."""

    y: Array
    level: Array


MoveFn = Callable[[Array, Chain, Array], Chain]


class Walk(NamedTuple):
    """How the chain moves.

    `eta` is the step size, in units of y^2; `n_skip` the moves for one output; `update` one of
    `UPDATES`; `burn_in` the moves before the first output, `((number, eta), ...)` in order;
    `start_std` the noise added to the sample that a chain begins with, in units of y.
    """

    eta: float
    n_skip: int = 10
    update: str = "argmax"
    burn_in: tuple[tuple[int, float], ...] = ()
    start_std: float = 0.5


def check_walk(walk: Walk) -> None:
    if walk.update not in UPDATES:
        raise ValueError(f"update is {walk.update!r}; it must be one of {', '.join(UPDATES)}.")
    if walk.n_skip < 1:
        raise ValueError(f"n_skip is {walk.n_skip}; an output needs at least 1 move.")
    for eta in (walk.eta, *(eta for _, eta in walk.burn_in)):
        if not 0.0 < eta < float("inf"):
            raise ValueError(f"eta is {eta}; a step size must be positive and finite.")
    for number, _ in walk.burn_in:
        if number < 0:
            raise ValueError(f"burn_in has {number} moves; take 0 or more.")
    if not 0.0 <= walk.start_std < float("inf"):
        raise ValueError(f"start_std is {walk.start_std}; it must be finite and not negative.")


def langevin_move(
    key: Array, path: AffinePath, levels: Levels, predict: PredictFn, chain: Chain, eta: Array
) -> Array:
    """y after one Langevin move at the chain's level; one evaluation."""
    t, sigma = levels.t[chain.level], levels.sigma[chain.level]
    eps = predict(expand(path.coeffs(t).a, chain.y) * chain.y, t).eps
    eta = jnp.asarray(eta, eps.dtype)
    drift = expand(0.5 * eta / sigma, eps).astype(eps.dtype) * eps
    return chain.y - drift + jnp.sqrt(eta) * path.noise(key, chain.y)


def make_move(
    path: AffinePath, levels: Levels, logits: LogitsFn, predict: PredictFn, update: str
) -> MoveFn:
    """`(key, chain, eta) -> chain`: y at the old level, then the level at the new y."""

    def move(key: Array, chain: Chain, eta: Array) -> Chain:
        noise_key, level_key = split(key, 2)
        y = langevin_move(noise_key, path, levels, predict, chain, eta)
        return Chain(y, draw_level(level_key, logits(y), update))

    return move


def window(key: Array, move: MoveFn, chain: Chain, etas: Array) -> tuple[Chain, Chain]:
    """A move for each of `etas` `(n,)`: the chain after them, and of each example the state of
    least sigma among those n.

    Of equal ones the last, which resembles the output before least. Move i draws from
    `fold_in(key, i)`.
    """

    def body(carry, inputs):
        (chain, best), (i, eta) = carry, inputs
        chain = move(fold_in(key, i), chain, eta)
        newer = chain.level >= best.level
        y = jnp.where(expand(newer, chain.y), chain.y, best.y)
        return (chain, Chain(y, jnp.where(newer, chain.level, best.level))), None

    # Below every level, so that the start itself is never picked.
    nothing = Chain(chain.y, jnp.full_like(chain.level, -1))
    return jax.lax.scan(body, (chain, nothing), (jnp.arange(len(etas)), etas))[0]


def grids_from(path: AffinePath, tops: Array, grid: str, steps: int, eps: float) -> Array:
    """The grid of that name for each example, from its own time `tops` `(B,)` to eps:
    `(steps + 1, B)`. A top at or below eps gives steps of length zero."""
    make = lambda top: GRIDS[grid](path.replace(t1=top), steps, eps)
    ts = jax.vmap(make, out_axes=1)(tops)
    return jnp.where(tops[None] > eps, ts, eps)


def denoise(
    key: Array,
    path: AffinePath,
    levels: Levels,
    predict: PredictFn,
    sampler: Sampler,
    chain: Chain,
    *,
    steps: int,
    eps: float,
    grid: str = "karras",
) -> SampleResult:
    """The reverse process from each chain's own level to eps, and the conditional mean there.

    `steps` steps of any sampler for every chain, whatever its level; `steps nfe + 1` evaluations.
    """
    ts = grids_from(path, levels.t[chain.level], grid, steps, eps)
    x = expand(path.coeffs(ts[0]).a, chain.y) * chain.y
    return sample(key, predict, sampler, x, ts, denoise=True)


def denoising_mcmc(
    path: AffinePath,
    levels: Levels,
    logits: LogitsFn,
    start: SampleFn,
    sampler: Sampler,
    walk: Walk,
    *,
    steps: int,
    eps: float,
    grid: str = "karras",
    outputs: int = 1,
) -> SampleFn:
    """Denoising Langevin Gibbs as `(key, predict, x) -> SampleResult`.

    Args:
        levels, logits: the grid of levels and log p(level | y) on it, exact or a classifier's.
        start: a coarse full run that ends with data, such as 20 steps of Heun with its denoising;
            its result plus `start_std z` is where a chain begins.
        sampler, steps, eps, grid: the integrator from a chain's level to eps; grid is a name in
            `GRIDS`.
        outputs: samples that one chain gives, one after the other.

    x is `(B, ...)` from the prior and B a multiple of `outputs`: chain j starts from example
    `j outputs`, draws from its key alone, and gives the samples from there on. So with a key per
    example a chain is the same in any batch. `nfe` is what a sample costs on the whole,
    `n_skip + steps nfe + 1` and its share of the start and the burn-in; `trace` the sigma `(B,)`
    that each sample was denoised from; `failed` that of `start`.

    Raises:
        ValueError: for numbers out of range, a lowest level below eps, or a batch that is not a
            multiple of `outputs`.
    """
    check_walk(walk)
    check_run(path, levels, steps, eps, outputs)
    burn_in = [eta for number, eta in walk.burn_in for _ in range(number)]
    each = walk.n_skip + steps * sampler.nfe + 1

    def run(key: Array, predict: PredictFn, x: Array) -> SampleResult:
        check_batch(x.shape[0], outputs)
        heads = x[::outputs]
        begin_key, burn_key, walk_key = split(key if key.ndim == 0 else key[::outputs], 3)
        move = make_move(path, levels, logits, predict, walk.update)
        first, chain = begin(begin_key, logits, start, predict, heads, walk)
        chain, _ = window(burn_key, move, chain, jnp.asarray(burn_in, x.dtype))
        etas, to_data = jnp.full(walk.n_skip, walk.eta), {"steps": steps, "eps": eps, "grid": grid}

        def output(chain: Chain, i: Array):
            move_key, end_key = split(fold_in(walk_key, i), 2)
            chain, best = window(move_key, move, chain, etas)
            end = denoise(end_key, path, levels, predict, sampler, best, **to_data)
            return chain, (end.x, levels.sigma[best.level])

        _, (found, sigma) = jax.lax.scan(output, chain, jnp.arange(outputs))
        share = (jnp.asarray(first.nfe) + len(burn_in)) / outputs
        of_each = lambda v: jnp.repeat(jnp.asarray(v), outputs) if jnp.ndim(v) else v
        return SampleResult(
            jnp.moveaxis(found, 0, 1).reshape(x.shape),
            sigma.T.reshape(-1),
            of_each(share + each),
            of_each(first.failed),
        )

    return run


def begin(
    key: Array, logits: LogitsFn, start: SampleFn, predict: PredictFn, x: Array, walk: Walk
) -> tuple[SampleResult, Chain]:
    """The result of the coarse run from x, and the chain that begins beside it."""
    run_key, noise_key, level_key = split(key, 3)
    first = start(run_key, predict, x)
    y = first.x + walk.start_std * normal_like(noise_key, first.x)
    return first, Chain(y, draw_level(level_key, logits(y), walk.update))


def check_run(path: AffinePath, levels: Levels, steps: int, eps: float, outputs: int) -> None:
    if steps < 1 or outputs < 1:
        raise ValueError(f"steps is {steps} and outputs {outputs}; take at least 1 of each.")
    with jax.ensure_compile_time_eval():
        lowest = float(levels.t[-1])
    if not path.t0 / (1.0 + 1e-5) <= eps <= lowest * (1.0 + 1e-5):
        raise ValueError(
            f"eps is {eps} and the least noisy level is at t = {lowest:.6g}; end at or below it, "
            f"and not below t0 = {path.t0}."
        )


def check_batch(size: int, outputs: int) -> None:
    if size % outputs:
        raise ValueError(
            f"The batch is {size} and each chain gives {outputs} samples; take a multiple of that."
        )
