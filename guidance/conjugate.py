"""Conjugate gradients and conjugate residuals, each example a system of its own.

Of the same Krylov space, for the same products with M, the first gives the x whose error is least
in the norm of M and the second that whose residual is least, as GMRES does for any matrix.

`jax.scipy.sparse.linalg.cg` sees the batch as one system: a sample would depend on those beside it,
and mapped over examples it would call the network on one at a time.
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
    """x of `M x = b` after that many iterations from zero (Hestenes & Stiefel 1952).

    Args:
        matvec: `M`, symmetric and positive, `(B, ...)` to the same, example by example.
        precondition: roughly the inverse of M, symmetric and positive too.

    M is applied `iterations` times, whatever the residual. An example stops by itself where its
    residual is zero, is rounding, or where M is not positive along a direction, as a covariance
    taken from a network may be.
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
        # What has stopped stays so: no residual, no direction.
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
    """The same with the least residual, in the norm of `precondition` (Stiefel 1955)."""

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
