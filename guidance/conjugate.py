"""Conjugate gradients and conjugate residuals, with one linear system for each example.

Both search the same Krylov space with the same products with M. Conjugate gradients give the x
whose error is least in the norm of M. Conjugate residuals give the x whose residual is least, as
GMRES does for any matrix.

`jax.scipy.sparse.linalg.cg` would treat the batch as one system, so that a sample depends on the
others in its batch; mapped over examples, it would call the network on one example at a time.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from sde_lib import dot, expand

MatvecFn = Callable[[Array], Array]


def conjugate_gradients(
    matvec: MatvecFn, b: Array, iterations: int, precondition: MatvecFn = lambda r: r
) -> Array:
    """The x of `M x = b` after `iterations` iterations from zero (Hestenes & Stiefel 1952).

    Args:
        matvec: multiplication by M, symmetric and positive, `(B, ...) -> (B, ...)`, each example on
            its own.
        b: the right-hand side, `(B, ...)`.
        precondition: multiplication by an approximate inverse of M, symmetric and positive too.

    M is applied `iterations` times for any residual. An example stops changing if its residual is
    zero up to rounding, or if M is not positive along a direction, which may happen for a
    covariance taken from a network.
    """

    def body(state, _):
        x, r, p, rz = state
        Mp = matvec(p)
        curvature = dot(p, Mp)
        moves = (curvature > 0.0) & (rz > least)
        alpha = jnp.where(moves, rz / jnp.where(moves, curvature, 1.0), 0.0)
        x, r = x + expand(alpha, p) * p, r - expand(alpha, p) * Mp
        z = precondition(r)
        new = dot(r, z)
        beta = jnp.where(moves, new / jnp.where(moves, rz, 1.0), 0.0)
        # rz = 0 keeps a stopped example stopped.
        rz = jnp.where(moves, new, 0.0)
        return (x, r, z + expand(beta, p) * p, rz), None

    z = precondition(b)
    rz = dot(b, z)
    least = jnp.finfo(b.dtype).eps ** 2 * rz
    state, _ = jax.lax.scan(body, (jnp.zeros_like(b), b, z, rz), length=iterations)
    return state[0]


def conjugate_residuals(
    matvec: MatvecFn, b: Array, iterations: int, precondition: MatvecFn = lambda r: r
) -> Array:
    """Like `conjugate_gradients`, with the least residual in the norm of `precondition` (Stiefel
    1955)."""

    def body(state, _):
        x, r, z, p, Mp, before = state
        Mz = matvec(z)
        new = dot(z, Mz)
        moves = (new > 0.0) & (dot(r, z) > least)
        beta = jnp.where(moves & (before > 0.0), new / jnp.where(before > 0.0, before, 1.0), 0.0)
        p, Mp = z + expand(beta, p) * p, Mz + expand(beta, p) * Mp
        change = precondition(Mp)
        size = dot(Mp, change)
        moves = moves & (size > 0.0)
        alpha = expand(jnp.where(moves, new / jnp.where(moves, size, 1.0), 0.0), p)
        x, r, z = x + alpha * p, r - alpha * Mp, z - alpha * change
        return (x, r, z, p, Mp, jnp.where(moves, new, 0.0)), None

    z, zero = precondition(b), jnp.zeros_like(b)
    least = jnp.finfo(b.dtype).eps ** 2 * dot(b, z)
    start = (zero, b, z, zero, zero, jnp.zeros(b.shape[:1], b.dtype))
    return jax.lax.scan(body, start, length=iterations)[0][0]


SOLVERS = {"cr": conjugate_residuals, "cg": conjugate_gradients}


def check_iterations(iterations: int, least: int = 1) -> None:
    if iterations < least:
        raise ValueError(
            f"iterations is {iterations}; the solver needs at least {least} to answer y."
        )
