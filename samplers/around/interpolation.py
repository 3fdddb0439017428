"""Paths between two latents that keep the norm of noise.

Noise `z ~ N(0, I)` of D values has a norm near sqrt(D), give or take one (Chen et al. 2023, arXiv
2305.19947, section on latent interpolation). For independent z1 and z2 and w in [0, 1], the
variance of a blend is

    linear     (1 - w) z1 + w z2                                 (1 - w)^2 + w^2, 1/2 in the middle
    slerp      (sin((1 - w) theta) z1 + sin(w theta) z2) / sin theta      1, up to O(1 / sqrt D)
    spherical  sqrt(1 - w^2) z1 + w z2                           1

theta is the angle between z1 and z2 (Shoemake 1985). For latents that are not independent, and in
few dimensions, only slerp keeps the norm (exactly if z1 and z2 have equal norms). A common scale
commutes with every blend, so latents may be blended before or after scaling to the prior.
"""

import jax
import jax.numpy as jnp
from jax import Array

from sde_lib import expand, rows


def linear(z1: Array, z2: Array, w: Array) -> Array:
    """The chord, as a baseline: its norm is too small and it decodes to averages.

    Shapes of all blends: z1 and z2 `(B, ...)`, w `()` or one per example `(B,)`.
    """
    w = expand(w, z1)
    return (1.0 - w) * z1 + w * z2


def slerp(z1: Array, z2: Array, w: Array) -> Array:
    """The great circle at constant speed, with each example's own angle.

    If z1 and z2 have the same direction the result is the chord, the limit of the great circle. If
    their directions are opposite the great circle is not unique, and the result is the chord too.
    """
    theta = angle(z1, z2)
    sine = jnp.sin(theta)
    bent = sine > 1e-3 if theta.dtype == jnp.float32 else sine > 1e-6
    safe, sine = jnp.where(bent, theta, 1.0), jnp.where(bent, sine, 1.0)
    w = jnp.asarray(w, theta.dtype)
    first = jnp.where(bent, jnp.sin((1.0 - w) * safe) / sine, 1.0 - w)
    second = jnp.where(bent, jnp.sin(w * safe) / sine, w)
    return expand(first, z1) * z1 + expand(second, z2) * z2


def spherical(z1: Array, z2: Array, w: Array) -> Array:
    """The blend whose variance is one for independent z1 and z2; not symmetric in z1 and z2."""
    w = jnp.asarray(w)
    return expand(jnp.sqrt((1.0 - w) * (1.0 + w)), z1) * z1 + expand(w, z2) * z2


def angle(z1: Array, z2: Array) -> Array:
    """The angle between examples in radians, `(B,)`, accurate to rounding near 0 and pi too.

    `2 atan2(|u1 - u2|, |u1 + u2|)` of unit vectors (Kahan 2006). The arccos of their product would
    lose half of its digits near 0 and pi.
    """
    u1, u2 = (_unit(rows(z)) for z in (z1, z2))
    return 2.0 * jnp.arctan2(jnp.linalg.norm(u1 - u2, axis=1), jnp.linalg.norm(u1 + u2, axis=1))


def _unit(flat: Array) -> Array:
    return flat / jnp.linalg.norm(flat, axis=1, keepdims=True)


INTERPOLATIONS = {"linear": linear, "slerp": slerp, "spherical": spherical}


def walk(name: str, z1: Array, z2: Array, nodes: int) -> Array:
    """`(nodes, B, ...)`, from z1 to z2 at even w, by the blend called `name`.

    Raises:
        ValueError: for an unknown blend, shapes that differ, or fewer than two nodes.
    """
    if name not in INTERPOLATIONS:
        raise ValueError(f"The blend is {name!r}; it must be one of {', '.join(INTERPOLATIONS)}.")
    if z1.shape != z2.shape or nodes < 2:
        raise ValueError(
            f"The latents have shapes {z1.shape} and {z2.shape}, and {nodes} nodes are asked; a "
            "walk needs equal shapes and at least 2 nodes."
        )
    weights = jnp.linspace(0.0, 1.0, nodes, dtype=z1.dtype)
    return jax.vmap(lambda w: INTERPOLATIONS[name](z1, z2, w))(weights)
