"""Langevin correctors, which stay at one noise level and push x towards the law at that level.

Song et al. 2021, algorithms 4 and 5, appendix G. `snr` is the paper's r. A corrector takes the
same arguments as a predictor. It acts at the end s of the step (the paper's order: predictor, then
corrector) or at the start t (the original code's order).
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from samplers.base import Sampler, State, start
from sde_lib import AffinePath, expand, fold_in
from sde_lib.ranges import not_negative, one_of, positive

NORMS = ("example", "batch")


def langevin(
    path: AffinePath, snr: float = 0.16, n_steps: int = 1, norm: str = "example", at: str = "end"
) -> Sampler:
    """`x + e g + sqrt(2 e) z`, g the score, `e = 2 alpha (snr |z| / |g|)^2`.

    `alpha = (a_t / a_s)^2`, which is 1 for VE and the paper's `1 - beta` for VP. With
    `norm="example"` each example has its own step size, and |z| is replaced by sqrt(D), its value
    up to fluctuations. `"batch"` averages both norms over the batch as the original did, so that a
    sample depends on the others in its batch. A step size that depends on x has the invariant law
    `p |score|^2` instead of p: for a Gaussian the relative error of the variance is 2 / D, which is
    small for images and large for D = 2. Where the score is zero, as for an untrained network, x
    does not move.

    Args:
        snr: the signal-to-noise ratio of a step.
        n_steps: steps at each time.
        norm: "example" or "batch".
        at: "end" corrects at s, after a predictor; "start" at t, before it.

    Raises:
        ValueError: for a negative snr, fewer than one step, or another norm.
    """
    check(snr, n_steps, norm)

    size = lambda score, z, u: (snr * size_ratio(path, score, z, norm)) ** 2
    return _corrector(path, n_steps, at, size)


def annealed_langevin(
    path: AffinePath, snr: float = 0.16, n_steps: int = 1, norm: str = "example", at: str = "end"
) -> Sampler:
    """`langevin` with `e = 2 alpha (snr c)^2`, c the noise level.

    Song & Ermon 2019, algorithm 1. `norm` is checked, but this step size does not use it.
    """
    check(snr, n_steps, norm)
    return _corrector(path, n_steps, at, lambda score, z, u: (snr * path.coeffs(u).c) ** 2)


def _corrector(path: AffinePath, n_steps: int, at: str, step_size: Callable) -> Sampler:
    def step(key, predict, state, span):
        t, s = span.t, span.s
        u = s if at == "end" else t
        alpha = path.forward_step(s, t).r ** 2

        def inner(i, x):
            z = path.noise(fold_in(key, i), x)
            score = predict(x, u).score
            e = expand(2.0 * alpha * step_size(score, z, u), x)
            return x + e * score + jnp.sqrt(2.0 * e) * z

        return State(jax.lax.fori_loop(0, n_steps, inner, state.x))

    return Sampler(start, step, nfe=n_steps)


def check(snr: float, n_steps: int, norm: str) -> None:
    not_negative(snr=snr)
    positive(n_steps=n_steps)
    one_of(NORMS, norm=norm)


def size_ratio(path: AffinePath, score: Array, z: Array, norm: str) -> Array:
    """`|z| / |g|` of each example `(B,)`, or the ratio of the batch means; 0 where the score is 0.

    A state of several parts has one ratio for each part.
    """
    norms = lambda v: jnp.sqrt(path.total(v**2))
    if norm == "batch":
        over, under = jnp.mean(norms(z), axis=0), jnp.mean(norms(score), axis=0)
    else:
        # |z| is the root of the number of coordinates, up to fluctuations.
        over, under = norms(jnp.ones_like(score)), norms(score)
    return jnp.where(under > 0.0, over / jnp.where(under > 0.0, under, 1.0), 0.0)
