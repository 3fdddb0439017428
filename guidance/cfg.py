"""Classifier-free guidance: one network predicts both with the class and without (Ho and Salimans
2022, https://arxiv.org/abs/2207.12598).

    score = score_u + w (score_c - score_u)

This is classifier guidance with the classifier `p(y | x) ~ p(x | y) / p(x)` that the network
itself implies. w = 0 gives the unconditional score and w = 1 the conditional one; w is 1 plus the
weight of the paper's equation 6. All fields of a prediction are affine in the score, so the same
formula combines each of them.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import Array
from jax.core import Tracer

from sde_lib import AffinePath, expand, rows
from sde_lib.prediction import Cond, PredictFn, Prediction, prediction_of
from sde_lib.ranges import pair, strength, up_to_one


@struct.dataclass
class Wanted:
    """A condition with a strength `(B,)` for each example, in place of one scale for all.

    Raises:
        ValueError: for a strength that is not finite or above 1e6, if its value is known.
    """

    cond: Cond
    scale: Array

    def __post_init__(self):
        # Under jit the leaves are traced, and in some of jax's own calls no arrays at all.
        if isinstance(self.scale, np.ndarray | Array) and not isinstance(self.scale, Tracer):
            for value in np.ravel(self.scale).tolist():
                strength(scale=value)


def classifier_free(
    path: AffinePath,
    predict: PredictFn,
    null: Cond,
    scale: float = 1.0,
    *,
    interval: tuple[float, float] = (0.0, float("inf")),
    rescale: float = 0.0,
) -> PredictFn:
    """A guided prediction function `(x, t, cond) -> Prediction` from a conditional one.

    Args:
        predict: `(x, t, cond)`, the network; cond is classes `(B,)` or any condition. It is
            evaluated once on a batch of size 2 B, or of size B if w is 0 or 1 at all noise levels.
        null: the condition of one example that means "no condition": the number of no class, or a
            pytree like cond without its batch axis.
        scale: w; a condition of type `Wanted` has a w for each example instead.
        interval: noise levels sigma = c / a, `low < sigma <= high`, in which w applies; elsewhere
            w is 1 (Kynkaanniemi et al. 2024).
        rescale: phi in [0, 1], the part by which the standard deviation of x0 over an example is
            brought back to that of the conditional x0 (Lin et al. 2024, section 3.4).

    Raises:
        ValueError: for an interval that is empty, a rescale outside of [0, 1], or a scale that is
            not finite or above 1e6.
    """
    strength(scale=scale)
    up_to_one(rescale=rescale)
    pair(interval=interval)
    low, high = interval
    if not 0.0 <= low < high:
        raise ValueError(f"interval is {interval}; give two noise levels, low < high.")
    everywhere = low == 0.0 and high == float("inf")

    def guided(x: Array, t: Array, cond: Cond) -> Prediction:
        size, own = x.shape[0], None
        if isinstance(cond, Wanted):
            cond, own = cond.cond, cond.scale
        wanted = jax.tree.map(lambda v: jnp.broadcast_to(v, (size, *jnp.shape(v)[1:])), cond)
        nobody = jax.tree.map(lambda v, none: jnp.full_like(v, none), wanted, null)
        if own is None and (scale == 1.0 or (scale == 0.0 and everywhere)):
            return predict(x, t, wanted if scale else nobody)
        t = jnp.broadcast_to(jnp.asarray(t), (size,))
        join = lambda u, v: jnp.concatenate([u, v])
        both = predict(join(x, x), join(t, t), jax.tree.map(join, wanted, nobody))
        given = jax.tree.map(lambda v: v[:size], both)
        free = jax.tree.map(lambda v: v[size:], both)
        sigma = path.sigma(t)
        inside = (low < sigma) & (sigma <= high)
        w = expand(jnp.where(inside, scale if own is None else own, 1.0).astype(x.dtype), x)
        mixed = jax.tree.map(lambda u, c: u + w * (c - u), free, given)
        return rescaled(path, x, t, mixed, given.x0, rescale) if rescale else mixed

    return guided


def rescaled(
    path: AffinePath, x: Array, t: Array, mixed: Prediction, x0: Array, rescale: float
) -> Prediction:
    """The prediction `mixed` with the standard deviation of its x0 brought towards that of `x0`.

    Standard deviations are over the values of an example, shapes `(B, ...)`.
    """
    spread = lambda v: expand(jnp.std(rows(v), axis=1), v)
    own = spread(mixed.x0)
    # An example of zero spread, such as one of a single value, cannot be rescaled: its ratio is 1.
    ratio = jnp.where(own > 0.0, spread(x0) / jnp.where(own > 0.0, own, 1.0), 1.0)
    factor = rescale * ratio + (1.0 - rescale)
    a, c = path.coeffs(t)
    x0 = factor * mixed.x0
    return prediction_of(path, x, t, x0, (x - expand(a, x) * x0) / expand(c, x))
