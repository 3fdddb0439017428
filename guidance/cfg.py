"""Classifier-free guidance: one network that knows the class, and knows it without (Ho and Salimans
2022, https://arxiv.org/abs/2207.12598).

    score = score_u + w (score_c - score_u)

which is classifier guidance with the classifier `p(y | x) ~ p(x | y) / p(x)` that the network
itself implies. w = 0 is the unconditional score, w = 1 the conditional one; w = 1 + the weight of
the paper's equation 6. All fields of a prediction are affine in the score, so all are combined.
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
    """A condition, and a strength `(B,)` for each example, in place of one scale for all.

    Raises:
        ValueError: for a strength that is not finite or above 1e6, where its numbers are known.
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
    """A prediction function `(x, t, cond) -> Prediction` from one that takes conditions.

    Args:
        predict: `(x, t, cond)`, the network, cond being classes `(B,)` or any condition. It is
            evaluated once, on a batch of twice the size; where w is 0 or 1 throughout, on one of
            that size.
        null: the condition, of one example, that stands for none: the number of no class, or a
            pytree like cond without its batch axis.
        scale: w; or that of each example, where the condition is a `Wanted`.
        interval: noise levels sigma = c / a, `low < sigma <= high`, in which w applies; elsewhere
            it is 1 (Kynkaanniemi et al. 2024).
        rescale: phi in [0, 1]: by that part x0 is brought back to the standard deviation, over an
            example, that the conditional one has (Lin et al. 2024, section 3.4).

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
    """The prediction with x0 brought towards the spread of another one."""
    spread = lambda v: expand(jnp.std(rows(v), axis=1), v)
    own = spread(mixed.x0)
    # What has no spread of its own, such as an example of one value, cannot be given one.
    ratio = jnp.where(own > 0.0, spread(x0) / jnp.where(own > 0.0, own, 1.0), 1.0)
    factor = rescale * ratio + (1.0 - rescale)
    a, c = path.coeffs(t)
    x0 = factor * mixed.x0
    return prediction_of(path, x, t, x0, (x - expand(a, x) * x0) / expand(c, x))
