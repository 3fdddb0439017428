"""The nodes of a recipe, refined by gradient through its sampler and the network."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from samplers.base import sample
from samplers.schedules.recipe import Recipe, method_of
from sde_lib import AffinePath, rms
from search.refine import FLOOR
from search.score import Trajectories


def refine_nodes(
    path: AffinePath, known: Trajectories, recipe: Recipe, steps: int = 200, rate: float = 0.02
) -> Recipe:
    """The recipe with its inner nodes moved, by Adam with a rate that falls along a cosine.

    The lengths of the steps in `lam` are shares of the whole by a softmax, so nodes stay in order.
    The loss is the mean logarithm of the distances to the true ends. The best of all iterates is
    returned, so the result is never worse than the start by this loss.
    """
    if len(recipe.lam) < 3:
        return recipe
    lam = jnp.asarray(recipe.lam, known.x.dtype)
    method, adam = method_of(recipe, path), optax.adam(optax.cosine_decay_schedule(rate, steps))

    def nodes(gaps: Array) -> Array:
        inner = jnp.cumsum(jax.nn.softmax(gaps))[:-1]
        return lam.at[1:-1].set(lam[0] + (lam[-1] - lam[0]) * inner)

    def loss(gaps: Array, x: Array, ends: Array) -> Array:
        ts = path.t_of_lam(nodes(gaps))
        out = sample(jax.random.key(0), known.predict, method, x, ts, denoise=recipe.denoise).x
        return jnp.mean(jnp.log(rms(out - ends) + FLOOR))

    @jax.jit
    def descend(gaps, state, best, least, x, ends):
        value, slope = jax.value_and_grad(loss)(gaps, x, ends)
        best = jnp.where(value < least, gaps, best)
        slope = jnp.where(jnp.isfinite(slope), slope, 0.0)
        move, state = adam.update(slope, state)
        return gaps + move, state, best, jnp.minimum(value, least)

    gaps = jnp.log(jnp.diff(lam))
    carry = gaps, adam.init(gaps), gaps, jnp.asarray(jnp.inf, lam.dtype)
    for _ in range(steps):
        carry = descend(*carry, known.x, known.ends)
    found = tuple(map(float, np.asarray(nodes(carry[2]), np.float64)))
    return recipe._replace(lam=(recipe.lam[0], *found[1:-1], recipe.lam[-1]))


def refine_kinds(
    ranked: list[Recipe], refine: Callable[[Recipe], Recipe], count: int
) -> list[Recipe]:
    """The best recipe of each of the first `count` kinds, refined. Recipes that differ in their
    nodes alone are one kind, as their refinements end near each other."""
    kinds = {}
    for recipe in ranked:
        kinds.setdefault((recipe.predictor, str(recipe.options), recipe.denoise), recipe)
    return [refine(recipe) for recipe in list(kinds.values())[:count]]
