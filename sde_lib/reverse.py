"""Time reversal: the reverse SDE and the probability-flow ODE, as functions of a score.

For `dx = f dt + G dw` (Song et al. 2021, appendix A and D.1; Anderson 1982):

    reverse SDE    dx = [f - div(G G^T) - G G^T score] dt + G dw      (dt < 0)
    flow ODE       dx = [f - div(G G^T) / 2 - G G^T score / 2] dt

`div(G G^T)_i = sum_j d/dx_j (G G^T)_ij` is zero if G does not depend on x. If G does, the term must
not be left out: without it, geometric Brownian motion returns log-normal data with the log-mean off
by `2 S_0 log(S_1 / S_0)`, with S the variance of log x.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from sde_lib.base import SDE, expand

# Full precision; by default accelerators multiply matrices in a lower one.
FULL = jax.lax.Precision.HIGHEST

ScoreFn = Callable[[Array, Array], Array]


def reverse_drift(sde: SDE, score: ScoreFn) -> ScoreFn:
    """Drift of the reverse-time SDE, `(x, t) -> (B, ...)`."""
    return _reversed(sde, score, 1.0)


def flow_drift(sde: SDE, score: ScoreFn) -> ScoreFn:
    """Drift of the probability-flow ODE, `(x, t) -> (B, ...)`."""
    return _reversed(sde, score, 0.5)


def _reversed(sde: SDE, score: ScoreFn, weight: float) -> ScoreFn:
    def drift(x: Array, t: Array) -> Array:
        pull = ggt_times(sde, x, t, score(x, t)) + ggt_divergence(sde, x, t)
        return sde.drift(x, t) - weight * pull

    return drift


def ggt_times(sde: SDE, x: Array, t: Array, v: Array) -> Array:
    """`G G^T v` for each example."""
    G = sde.diffusion(x, t)
    if sde.diffusion_type == "matrix":
        return jnp.einsum("bim,bjm,bj->bi", G, G, v, precision=FULL)
    return expand(G, v) ** 2 * v


def noise_term(sde: SDE, x: Array, t: Array, z: Array) -> Array:
    """`G z`; for a matrix law `z` is `(B, M)`."""
    G = sde.diffusion(x, t)
    if sde.diffusion_type == "matrix":
        return jnp.einsum("bim,bm->bi", G, z, precision=FULL)
    return expand(G, z) * z


def ggt_divergence(sde: SDE, x: Array, t: Array) -> Array:
    """`div(G G^T)`, shape of `x`; exact, by one forward derivative per dimension.

    `sum_j d/dx_j (G G^T e_j)`, one j at a time: the memory is that of a few states.
    """
    if sde.diffusion_type == "scalar":
        return jnp.zeros_like(x)
    t = jnp.broadcast_to(jnp.asarray(t, x.dtype), x.shape[:1])
    size = x[0].size

    def add(total: Array, j: Array) -> tuple[Array, None]:
        e = jnp.broadcast_to(jax.nn.one_hot(j, size, dtype=x.dtype).reshape(x.shape[1:]), x.shape)
        return total + jax.jvp(lambda x: ggt_times(sde, x, t, e), (x,), (e,))[1], None

    return jax.lax.scan(add, jnp.zeros_like(x), jnp.arange(size))[0]
