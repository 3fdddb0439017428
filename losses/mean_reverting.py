"""Denoising on pairs: clean data and what a degradation made of them (Luo et al. 2023, IR-SDE,
arXiv 2301.11699).

    loss = E w(t) |eps(x_t, mu, t) - z|^2,    x_t = a x0 + (1 - a) mu + c z

This is the denoising loss of the affine law of `w = x - (1 - a) mu`, with a network that sees x and
mu instead of w. The score given mu is the same in both variables.

Under a weight of the noise error a network learns almost nothing at the largest noise: the error of
the data has the factor `(a / c)^2` there, and `a(1) = 0.005`. The weighting "target" is the error
of the output itself. For the kind `angle` this is `w = (std / a)^2`, with which the error of the
data has the factor one at t = 1 (Salimans & Ho 2022, section 4: SNR + 1).
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from losses.denoising import LossFn, draw, reduce_terms
from losses.weighting import WEIGHTINGS
from sde_lib import expand
from sde_lib.mean_reverting import MeanReverting
from sde_lib.mean_reverting_given import from_w, given_kinds
from sde_lib.prediction import condition


def mean_reverting_loss(
    path: MeanReverting,
    network: Callable[..., Array],
    kind: str,
    conditioning: str,
    *,
    weighting: str = "variance",
    time_sampling: str = "uniform",
    stratify: bool = False,
    reduce_mean: bool = True,
) -> LossFn:
    """Builds the loss `(params, others, key, batch) -> (scalar, metrics)`.

    `batch["x0"]` holds the clean data and `batch["x1"]` their mu, both `(B, ...)`.

    Args:
        network: `(params, x, mu, cond, dropout_key) -> F`, of the shape of x, in training mode.
        kind: a name in `given_kinds()`.
        weighting: a name in `WEIGHTINGS`, or "target"; the rest as in `denoising_loss`.

    Raises:
        ValueError: for an unknown kind or weighting.
    """
    names = (*WEIGHTINGS, "target")
    if kind not in given_kinds():
        raise ValueError(f"kind is {kind!r}; it must be one of {', '.join(given_kinds())}.")
    if weighting not in names:
        raise ValueError(f"weighting is {weighting!r}; it must be one of {', '.join(names)}.")

    def loss(params, others, key: Array, batch: dict[str, Array]):
        del others
        draw_key, dropout_key = jax.random.split(key)
        x0, mu = batch["x0"], batch["x1"]
        t, weight, z = draw(path, draw_key, x0, time_sampling, stratify)
        apply = lambda x, mu, cond: network(params, x, mu, cond, dropout_key)
        terms = reverting_terms(path, apply, kind, conditioning, weighting, x0, mu, t, z)
        value = jnp.mean(reduce_terms(terms, reduce_mean) * weight)
        return value, {"loss": value, "t": t}

    return loss


def reverting_terms(
    path: MeanReverting,
    apply: Callable[[Array, Array, Array], Array],
    kind: str,
    conditioning: str,
    weighting: str,
    x0: Array,
    mu: Array,
    t: Array,
    z: Array,
) -> Array:
    """`w(t) |eps - z|^2` for each element, shape of `x0`, before any reduction; for the weighting
    "target", `|F - F*|^2`."""
    entry, share = given_kinds()[kind]
    x = from_w(path, mu, path.marginal(x0, z, t), t)
    raw = apply(x, mu, condition(conditioning, path, x, t))
    aim = entry.target(path, x0, z, t) + expand(share(path, t), x0) * mu
    error = (raw.astype(x.dtype) - aim) ** 2
    if weighting == "target":
        return error
    scale = WEIGHTINGS[weighting](path, t) * entry.eps_scale(path, t) ** 2
    return expand(scale, x0) * error
