"""The steps of the released score_sde code, driven by `score_sde.py`.

Each step is made at one time t and has the size 1 / N of a chain of N levels.

A predictor returns a mean and a standard deviation, from which the driver draws; a corrector
returns the new state. Times are scalars or one per example. With
`(r, q) = discretise(path, N)(t)`: for VP `r^2 = 1 - beta_i`, `q^2 = beta_i`, for VE `r = 1`,
`q^2 = sigma_i^2 - sigma_{i-1}^2`, at the truncated level i; see `sde_lib/tables.py`.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from samplers.steps.corrector import size_ratio
from sde_lib import VP, AffinePath, SubVP, expand, flow_drift, fold_in, reverse_drift
from sde_lib.reverse import ScoreFn
from sde_lib.tables import discretise, make_tables


class Move(NamedTuple):
    """A predictor's step `x = mean + std z`; `std` has the shape of t, or is None for 0."""

    mean: Array
    std: Array | None


Predictor = Callable[[ScoreFn, Array, Array], Move]
Corrector = Callable[[Array, ScoreFn, Array, Array], Array]


def euler_maruyama(path: AffinePath, num_scales: int, probability_flow: bool) -> Predictor:
    """`x - (f x - g^2 score) / N + g z / sqrt(N)`; as an ODE half the score and no noise."""
    drift_of = flow_drift if probability_flow else reverse_drift

    def predictor(score: ScoreFn, x: Array, t: Array) -> Move:
        mean = x - drift_of(path, score)(x, t) / num_scales
        return Move(mean, None if probability_flow else path.diffusion(x, t) / num_scales**0.5)

    return predictor


def reverse_diffusion(path: AffinePath, num_scales: int, probability_flow: bool) -> Predictor:
    """`(2 - r) x + q^2 score + q z`; as an ODE half the score and no noise."""
    kernel = discretise(path, num_scales)

    def predictor(score: ScoreFn, x: Array, t: Array) -> Move:
        r, q = kernel(t)
        pull = expand(q, x) ** 2 * score(x, t)
        if probability_flow:
            return Move(expand(2.0 - r, x) * x + 0.5 * pull, None)
        return Move(expand(2.0 - r, x) * x + pull, q)

    return predictor


def ancestral(path: AffinePath, num_scales: int, probability_flow: bool) -> Predictor:
    """`(x + q^2 score) / r + std z`; std is q for VP (DDPM) and `q c_{i-1} / c_i` for VE.

    Raises:
        ValueError: for sub-VP, which has no chain, and as an ODE.
    """
    if isinstance(path, SubVP):
        raise ValueError(
            "sampling.predictor is 'ancestral' and the law sub-VP, which has no chain of levels to "
            "go back along; take 'reverse_diffusion' or 'euler_maruyama', or sampling.method 'pc'."
        )
    if probability_flow:
        raise ValueError(
            "sampling.probability_flow is set, but the predictor 'ancestral' has no such form; "
            "take 'euler_maruyama' or 'reverse_diffusion'."
        )
    tables = make_tables(path, num_scales)

    def predictor(score: ScoreFn, x: Array, t: Array) -> Move:
        i = tables.index(t)
        r, q = tables.kernel(i)
        mean = (x + expand(q, x) ** 2 * score(x, t)) / expand(r, x)
        if isinstance(path, VP):
            return Move(mean, q)
        # The level before the first one is the data, without noise.
        before = jnp.where(i == 0, 0.0, tables.coeffs(jnp.maximum(i - 1, 0)).c)
        return Move(mean, q * before / tables.coeffs(i).c)

    return predictor


def still(path: AffinePath, num_scales: int, probability_flow: bool) -> Predictor:
    """The predictor `none`: leave x unchanged, without noise."""
    return lambda score, x, t: Move(x, None)


def langevin(path: AffinePath, num_scales: int, snr: float, n_steps: int, norm: str) -> Corrector:
    """`x + e score + sqrt(2 e) z`, `e = 2 alpha (snr |z| / |score|)^2`; see `alpha_of`.

    Both norms are averaged over the batch. With `norm="example"` each example has its own norm of
    the score, and sqrt(D) replaces |z|.
    """

    size = lambda score, z, t: size_ratio(path, score, z, norm)
    return _corrector(path, num_scales, snr, n_steps, size)


def ald(path: AffinePath, num_scales: int, snr: float, n_steps: int, norm: str) -> Corrector:
    """The same with `e = 2 alpha (snr c(t))^2`, c of the law, not of the tables."""
    return _corrector(path, num_scales, snr, n_steps, lambda score, z, t: path.coeffs(t).c)


def _corrector(
    path: AffinePath, num_scales: int, snr: float, n_steps: int, size: Callable
) -> Corrector:
    alpha = alpha_of(path, num_scales)

    def corrector(key: Array, score_of: ScoreFn, x: Array, t: Array) -> Array:
        def inner(k, x):
            score = score_of(x, t)
            z = path.noise(fold_in(key, k), x)
            e = expand(2.0 * alpha(t) * (snr * size(score, z, t)) ** 2, x)
            return x + e * score + jnp.sqrt(2.0 * e) * z

        return jax.lax.fori_loop(0, n_steps, inner, x)

    return corrector


def alpha_of(path: AffinePath, num_scales: int) -> Callable[[Array], Array]:
    """Langevin's alpha: DDPM's `1 - beta_i` for VP, 1 for VE.

    The original intends `1 - beta_i` for sub-VP as well, but has no table for sub-VP and fails.
    Here sub-VP has `1 - beta(t) / N`, the same number up to the time at which beta is taken.
    """
    if isinstance(path, SubVP):
        return lambda t: 1.0 - path.beta(t) / num_scales
    kernel = discretise(path, num_scales)
    return lambda t: kernel(t).r ** 2


PREDICTORS = {
    "euler_maruyama": euler_maruyama,
    "reverse_diffusion": reverse_diffusion,
    "ancestral": ancestral,
    "none": still,
}
CORRECTORS = {"langevin": langevin, "ald": ald, "none": None}
