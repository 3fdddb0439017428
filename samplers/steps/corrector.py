"""Langevin correctors, which stay at one noise level and push x towards its law there.

Song et al. 2021, algorithms 4 and 5, appendix G. `snr` is the paper's r. A corrector takes the
same arguments as a predictor and acts at the end of the step (`s`, for the paper's order:
predictor, then corrector) or at its start (`t`, for the original code's order).
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
    `norm="example"` each example has its own step size, |z| being sqrt(D), its value but for
    fluctuations; `"batch"` averages both norms over the batch as the original did, which makes a
    sample depend on those beside it. A step size that depends on x keeps `p |score|^2` in place of
    p: for a Gaussian a variance too large by 2 / D, which is little for images and much for D = 2.
    Where the score is zero, as of a network that is not trained, nothing moves.

    Args:
        snr: the signal-to-noise ratio of a step.
        n_steps: steps at each time.
        norm: "example" or "batch".
        at: "end" corrects at s, after a predictor; "start" at t, before it.
    """
    check(snr, n_steps, norm)

    size = lambda score, z, u: (snr * size_ratio(path, score, z, norm)) ** 2
    return _corrector(path, n_steps, at, size)


def annealed_langevin(
    path: AffinePath, snr: float = 0.16, n_steps: int = 1, norm: str = "example", at: str = "end"
) -> Sampler:
    """The same with `e = 2 alpha (snr c)^2`, c the noise level (Song & Ermon 2019, algorithm 1)."""
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
    """`|z| / |g|` by example `(B,)`, or of the means over the batch; 0 where the score is 0. A
    state of several parts has one a part."""
    norms = lambda v: jnp.sqrt(path.total(v**2))
    if norm == "batch":
        over, under = jnp.mean(norms(z), axis=0), jnp.mean(norms(score), axis=0)
    else:
        # |z| but for its fluctuations: the root of the number of coordinates.
        over, under = norms(jnp.ones_like(score)), norms(score)
    return jnp.where(under > 0.0, over / jnp.where(under > 0.0, under, 1.0), 0.0)
