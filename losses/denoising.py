"""Continuous-time denoising score matching (Song et al. 2021, eq. 7).

    loss = E_t E_x0 E_z  w(t) |eps(x_t, t) - z|^2,    x_t = a x0 + c z

with `w = 1` for the paper's `lambda = c^2` and `w = g^2 / c^2` for likelihood weighting. The code
computes `w eps_scale^2 |F - F*|^2`, on the target of the network's own output, which is equal and
has no division by c.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from losses.labels import told
from losses.time_sampling import TIME_SAMPLING, stratified
from losses.weighting import WEIGHTINGS
from sde_lib import AffinePath, expand, rows, total
from sde_lib.prediction import condition, kinds
from sde_lib.ranges import one_of

# `(params, others, key, batch) -> (scalar, metrics)`. `params` are the parameters that this loss
# trains. `others` holds, by name, the parameters of the other networks of a run, such as a
# discriminator or a teacher; no gradient of these is taken.
LossFn = Callable[[Any, dict[str, Any], Array, dict[str, Array]], tuple[Array, dict[str, Array]]]
NetworkFn = Callable[..., Array]


class Draws(NamedTuple):
    """What the loss is averaged over: times and weights `(B,)`, noise like the data."""

    t: Array
    weight: Array
    z: Array


def denoising_loss(
    path: AffinePath,
    network: NetworkFn,
    kind: str,
    conditioning: str,
    *,
    weighting: str = "variance",
    time_sampling: str = "uniform",
    stratify: bool = False,
    reduce_mean: bool = True,
    sigma_data: float = 0.5,
) -> LossFn:
    """Denoising score matching over continuous times.

    Returns `(params, others, key, batch) -> (scalar, metrics)`.

    Args:
        network: `(params, x, cond, dropout_key) -> F`, in training mode; with `label=` too where
            the batch has classes.
        kind, conditioning, sigma_data: as in `parametrize`.
        weighting: a name in `WEIGHTINGS`.
        time_sampling: a name in `TIME_SAMPLING`; the loss stays the mean over uniform t.
        stratify: spread the times of a batch evenly.
        reduce_mean: mean over the dimensions; otherwise half their sum, as in the original.

    `batch["x0"]` holds scaled data `(B, ...)`, and `batch["cond"]`, if present, the
    classes `(B,)` that are given to the network. The metrics are the loss and the times `t` `(B,)`,
    which help to explain a loss that is not finite.

    Raises:
        ValueError: for an unknown weighting or time sampling.
    """
    one_of(tuple(WEIGHTINGS), weighting=weighting)
    one_of(tuple(TIME_SAMPLING), time_sampling=time_sampling)

    def loss(params, others, key: Array, batch: dict[str, Array]):
        del others
        draw_key, dropout_key = jax.random.split(key)
        x0 = batch["x0"]
        draws = draw(path, draw_key, x0, time_sampling, stratify)
        apply = lambda x, cond: network(params, x, cond, dropout_key, **told(batch))
        terms = denoising_terms(path, apply, kind, conditioning, weighting, sigma_data, x0, draws)
        per_example = reduce_terms(terms, reduce_mean) * draws.weight
        value = jnp.mean(per_example)
        return value, {"loss": value, "t": draws.t}

    return loss


def draw(path: AffinePath, key: Array, x0: Array, time_sampling: str, stratify: bool) -> Draws:
    """Times and noise for a batch, in float32 or better."""
    time_key, noise_key = jax.random.split(key)
    size = x0.shape[0]
    u = stratified(time_key, size) if stratify else jax.random.uniform(time_key, (size,))
    t, weight = TIME_SAMPLING[time_sampling](path, u)
    return Draws(t, weight, path.noise(noise_key, x0))


def denoising_terms(
    path: AffinePath,
    apply: Callable[[Array, Array], Array],
    kind: str,
    conditioning: str,
    weighting: str,
    sigma_data: float,
    x0: Array,
    draws: Draws,
) -> Array:
    """`w(t) |eps - z|^2` for each element, shape of `x0`, before any reduction."""
    entry = kinds(sigma_data)[kind]
    t, _, z = draws
    x = path.marginal(x0, z, t)
    raw = apply(entry.scale_in(path, x, t), condition(conditioning, path, x, t))
    error = (raw.astype(x.dtype) - entry.target(path, x0, z, t)) ** 2
    scale = WEIGHTINGS[weighting](path, t) * entry.eps_scale(path, t) ** 2
    return expand(scale, x0) * error


def reduce_terms(terms: Array, reduce_mean: bool) -> Array:
    """Per example: the mean over the dimensions, or half the sum."""
    return jnp.mean(rows(terms), axis=-1) if reduce_mean else 0.5 * total(terms)
