"""Laws between two given ends: data, a second end point, and noise.

    x_t = a(t) x0 + b(t) x1 + c(t) z,    z ~ N(0, I)

`x0` is data and x1 the other end: a degraded image for mean reversion, data of another kind for
bridges and interpolants. A state depends on both ends, so such a law is a type of its own, and no
method for affine laws can accept it and ignore x1. For a given x1 the law of `w = x - b x1` is
affine; methods for affine laws are applied to w.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from sde_lib.base import expand


class Ends(NamedTuple):
    """Coefficients of data, second end and noise, each of the shape of t."""

    a: Array
    b: Array
    c: Array


class TwoEnded:
    """A law between two ends. Abstract: subclasses add `t0`, `t1` and `coeffs`. Times as in
    `AffinePath`: data at t0."""

    t0: float
    t1: float

    def coeffs(self, t: Array) -> Ends:
        raise NotImplementedError

    def rates(self, t: Array) -> Ends:
        """`(a', b', c')`, time derivatives of the coefficients."""
        t = jnp.asarray(t)
        return jax.jvp(self.coeffs, (t,), (jnp.ones_like(t),))[1]

    def marginal(self, x0: Array, x1: Array, z: Array, t: Array) -> Array:
        """`a x0 + b x1 + c z`, all `(B, ...)`, t `()` or `(B,)`."""
        return combined(self.coeffs(t), x0, x1, z)

    def velocity(self, x0: Array, x1: Array, z: Array, t: Array) -> Array:
        """`a' x0 + b' x1 + c' z`, the time derivative of a state for given ends and noise. Its mean
        given x_t is the velocity of the flow ODE that has these marginals."""
        return combined(self.rates(t), x0, x1, z)


def combined(ends: Ends, x0: Array, x1: Array, z: Array) -> Array:
    a, b, c = (expand(v, x0) for v in ends)
    return a * x0 + b * x1 + c * z
