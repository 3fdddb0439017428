"""The optimal denoiser of a data set: posterior mean, score and density in closed form.

Data at N points x_i, each blurred by N(0, s^2 I); s = 0 is the set itself. With `y = x / a`,
`sigma = c / a`, `v = sigma^2 + s^2`,

    u_i   = softmax_i(-|y - x_i|^2 / 2 v),    m = sum_i u_i x_i
    x0    = m + s^2 / v (y - m),              eps = sigma / v (y - m)
    log p = logsumexp_i(-|y - x_i|^2 / 2 v) - log N - D / 2 log(2 pi v) - D log a

p is the kernel density estimate of bandwidth sqrt(v), m its mean-shift map, and for s = 0
`m - y = sigma^2` times the score in y (Chen et al. 2023, arXiv 2305.19947; Comaniciu & Meer 2002).

**Memory.** The points are processed in blocks of M with a running maximum and sum, so B states need
`O(B (M + D))` numbers besides the points. Only reverse-mode gradients keep `(B, N)` numbers.

**Round-off.** The relative error of a weight is the error of `|y - x_i|^2 / 2 v`. The squares come
from one matrix product on centred data, in full precision on every device. In float32 their error
is `1e-7 (|y|^2 + |x_i|^2) / v`, which matters at small v. There a few points have all the weight,
so the squares of the `REFINED` nearest points of each block are computed again from the
differences, which leaves an error of `1e-7 |y - x_i|^2 / v`. In float64 only the one nearest is
computed again.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import Array

from sde_lib import rows
from sde_lib.affine import AffinePath
from sde_lib.base import expand
from sde_lib.prediction import PredictFn, prediction_of

REFINED = 8
FULL = jax.lax.Precision.HIGHEST  # by default accelerators multiply in a lower precision


@struct.dataclass
class Points:
    """A data set in K blocks of M. It is a pytree, to be passed as an argument to jitted functions.

    A jitted function that closes over it may hold it as a constant of the program.
    `blocks` `(K, M, D)`, less `mean` `(D,)` and padded with zeros; `squares` `(K, M)`, their
    squared norms; `std`, the blur s of each point; `size`, N.
    """

    blocks: Array
    squares: Array
    mean: Array
    std: float
    size: int = struct.field(pytree_node=False)


class Posterior(NamedTuple):
    """The posterior over the points, given a state.

    `mean` `(B, ...)`, the m above; `logp` `(B,)`, log density of x_t in nats; `nearest` `(B,)`,
    index of the largest weight; `distance` `(B,)`, of `x / a` to that point; `weight` `(B,)`, its
    weight, in [1 / N, 1].
    """

    mean: Array
    logp: Array
    nearest: Array
    distance: Array
    weight: Array


def points(data: np.ndarray, std: float = 0.0, block: int = 1024) -> Points:
    """The blocks of a data set, in the scale in which the data are given.

    Args:
        data: `(N, ...)`, finite.
        std: standard deviation s of each point.
        block: M, points processed at a time.

    Raises:
        ValueError: for no data or data that are not finite, a negative std, or no block.
    """
    data = np.asarray(data)
    if data.ndim < 2 or not data.size:
        raise ValueError(f"The data have shape {data.shape}; give at least one point, (N, ...).")
    if not std >= 0.0 or block < 1:
        raise ValueError(f"std is {std} and block {block}; take std >= 0 and block >= 1.")
    flat = rows(data)
    mean = flat.mean(0, dtype=np.float64)
    if not np.all(np.isfinite(mean)):
        raise ValueError("The data are not finite; leave out what has a nan or an infinity.")
    size, block = len(flat), min(block, len(flat))
    blocks = np.zeros((-(-size // block), block, flat.shape[1]), jnp.result_type(float))
    for k, part in enumerate(blocks):
        here = flat[k * block : (k + 1) * block]
        part[: len(here)] = here - mean
    squares = np.einsum("kmd,kmd->km", blocks, blocks)
    # `jnp.asarray` would hold one more copy of the data for a moment.
    return Points(*map(jax.device_put, (blocks, squares)), jnp.asarray(mean), std, size)


def empirical_predict(path: AffinePath, points: Points) -> PredictFn:
    """The exact prediction function `(x, t) -> Prediction` of these data, for any affine law."""

    def predict(x: Array, t: Array):
        y, _, sigma, v = _centred(path, points, x, t)
        mean = _posterior(points, y, v)[0]
        rest = y - mean
        # (y - x0) / sigma would cancel where s > 0 and sigma is small.
        x0, eps = points.mean[None] + mean + points.std**2 / v * rest, sigma / v * rest
        return prediction_of(path, x, t, *(w.reshape(x.shape).astype(x.dtype) for w in (x0, eps)))

    return predict


def posterior(path: AffinePath, points: Points, x: Array, t: Array) -> Posterior:
    """The posterior over the points given x `(B, ...)` at t, `()` or `(B,)`."""
    y, a, _, v = _centred(path, points, x, t)
    mean, log_sum, nearest, square = _posterior(points, y, v)
    kernel = 0.5 * jnp.log(2.0 * jnp.pi * v[:, 0]) + jnp.log(a[:, 0])
    logp = log_sum - math.log(points.size) - y.shape[1] * kernel
    weight = jnp.exp(-0.5 * square / v[:, 0] - log_sum)
    mean = (points.mean[None] + mean).reshape(x.shape)
    return Posterior(mean, logp, nearest, jnp.sqrt(square), weight)


def empirical_logp(path: AffinePath, points: Points, x: Array, t: Array) -> Array:
    """Log density of x_t in nats, `(B,)`: the kernel density estimate of the data."""
    return posterior(path, points, x, t).logp


def _centred(path: AffinePath, points: Points, x: Array, t: Array):
    """`y` `(B, D)` about the mean of the data, and `a, sigma, v`, each `(B, 1)`."""
    dtype = jnp.promote_types(x.dtype, jnp.float32)
    t = jnp.broadcast_to(jnp.asarray(t, dtype), x.shape[:1])
    flat = rows(x).astype(dtype)
    if flat.shape[1] != points.mean.shape[0]:
        raise ValueError(
            f"A state has {flat.shape[1]} values and a point {points.mean.shape[0]}; both must be "
            "examples of one shape."
        )
    a, sigma = expand(path.coeffs(t).a, flat), expand(path.sigma(t), flat)
    return flat / a - points.mean[None], a, sigma, sigma**2 + points.std**2


def _posterior(points: Points, y: Array, v: Array):
    """The posterior of centred y `(B, D)`: mean `(B, D)`, logsumexp, index of the nearest, its
    squared distance.

    One pass over the blocks with the largest exponent so far taken out (Milakov & Gimelshein 2018,
    arXiv 1805.02867).
    """
    batch, count = y.shape[0], points.blocks.shape[1]
    length = jnp.sum(y**2, axis=1, keepdims=True)

    def body(carry, inputs):
        top, total, mean, nearest, square = carry
        k, block, squares = inputs
        index = k * count + jnp.arange(count)
        d2 = _squares(y, length, block, squares)
        exponent = jnp.where(index[None] < points.size, -0.5 * d2 / v, -jnp.inf)
        best = jnp.argmax(exponent, axis=1)
        found = jnp.take_along_axis(d2, best[:, None], axis=1)[:, 0]
        # The maximum only rescales the sums, so no gradient goes through it.
        new = jax.lax.stop_gradient(jnp.maximum(top, jnp.max(exponent, axis=1)))
        share, shrink = jnp.exp(exponent - new[:, None]), jnp.exp(top - new)
        total = total * shrink + jnp.sum(share, axis=1)
        mean = mean * shrink[:, None] + jnp.matmul(share, block, precision=FULL)
        nearest = jnp.where(found < square, index[best], nearest)
        return (new, total, mean, nearest, jnp.minimum(square, found)), None

    far = jnp.full((batch,), jnp.inf, y.dtype)
    carry = (-far, jnp.zeros_like(far), jnp.zeros_like(y), jnp.zeros((batch,), int), far)
    blocks = (jnp.arange(len(points.blocks)), points.blocks, points.squares)
    (top, total, mean, nearest, square), _ = jax.lax.scan(body, carry, blocks)
    return mean / total[:, None], top + jnp.log(total), nearest, square


def _squares(y: Array, length: Array, block: Array, squares: Array) -> Array:
    """`|y - x_i|^2` `(B, M)`, those of the nearest from the differences themselves."""
    products = jnp.matmul(y, block.T, precision=FULL)
    rough = length - 2.0 * products + squares[None]
    # In float64 the nearest point, whose distance may be zero, is enough, and CPUs sort slowly.
    refined = REFINED if rough.dtype == jnp.float32 else 1
    if refined == 1:
        near = jnp.argmin(rough, axis=1, keepdims=True)
    else:
        near = jax.lax.top_k(-rough, min(refined, len(block)))[1]
    exact = jnp.sum((y[:, None] - block[near]) ** 2, axis=2)
    return jnp.put_along_axis(rough, near, exact, axis=1, inplace=False)
