"""Langevin Gibbs: the Markov chain over data and noise level behind denoising MCMC.

Kim & Ye 2023 (Denoising MCMC for accelerating diffusion-based generative models, ICML,
arXiv 2209.14593). The chain targets `p(y, sigma) = p(sigma) p_sigma(y)`, `y = x0 + sigma z`, by
alternating

    Langevin    y <- y + eta / 2 grad log p_sigma(y) + sqrt(eta) z      eta in units of y^2
    level       sigma from p(sigma | y), drawn (Gibbs) or the likeliest ("argmax")

For any affine law `y = x / a`, `sigma = c / a`, and `grad log p_sigma(y) = -eps / sigma`.

The Langevin move has no Metropolis correction. For one data point it changes the variance `sigma^2`
of the noise to `sigma^2 + eta^2 / (4 sigma^2)`, and it is stable only for `eta < 4 sigma^2`. For a
larger eta, y moves away from the data and the next level update finds a larger sigma.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from samplers.mcmc.levels import UPDATES, LevelLogitsFn, Levels, draw_level
from sde_lib import AffinePath, expand, fold_in, split
from sde_lib.prediction import PredictFn


class Chain(NamedTuple):
    """States of B chains: `y = x / a` `(B, ...)` and `level` `(B,)`, int32."""

    y: Array
    level: Array


MoveFn = Callable[[Array, Chain, Array], Chain]


class Walk(NamedTuple):
    """The settings of a chain.

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
    path: AffinePath, levels: Levels, logits: LevelLogitsFn, predict: PredictFn, update: str
) -> MoveFn:
    """`(key, chain, eta) -> chain`: y at the old level, then the level at the new y."""

    def move(key: Array, chain: Chain, eta: Array) -> Chain:
        noise_key, level_key = split(key, 2)
        y = langevin_move(noise_key, path, levels, predict, chain, eta)
        return Chain(y, draw_level(level_key, logits(y), update))

    return move


def window(key: Array, move: MoveFn, chain: Chain, etas: Array) -> tuple[Chain, Chain]:
    """Make one move for each of `etas` `(n,)`: the chain after the n moves, and each example's
    state of least sigma among them.

    Among states of equal sigma the last one is taken, because it resembles the previous output
    least. Move i draws from `fold_in(key, i)`.
    """

    def body(carry, inputs):
        (chain, best), (i, eta) = carry, inputs
        chain = move(fold_in(key, i), chain, eta)
        newer = chain.level >= best.level
        y = jnp.where(expand(newer, chain.y), chain.y, best.y)
        return (chain, Chain(y, jnp.where(newer, chain.level, best.level))), None

    # Index -1 is below every level's index, so the start itself is never picked.
    nothing = Chain(chain.y, jnp.full_like(chain.level, -1))
    return jax.lax.scan(body, (chain, nothing), (jnp.arange(len(etas)), etas))[0]
