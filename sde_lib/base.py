"""What every law offers, affine or not.

Time runs from data at `t0` to noise at `t1`. A time is a scalar or one value per example; a
state `x` has the batch axis first.
"""

from typing import Protocol

import jax.numpy as jnp
from jax import Array


class SDE(Protocol):
    """`dx = drift(x, t) dt + G(x, t) dw`, from data at `t0` to the prior at `t1`.

    `diffusion_type` says what `diffusion` returns:

    - `"scalar"`: g(t), shape of `t`, for G = g I; the divergence of G G^T is zero.
    - `"diagonal"`: shape of `x`, the diagonal of G, which may depend on `x`.
    - `"matrix"`: `(B, D, M)` for states `(B, D)`.
    """

    t0: float
    t1: float
    diffusion_type: str

    def drift(self, x: Array, t: Array) -> Array: ...

    def diffusion(self, x: Array, t: Array) -> Array: ...

    def noise(self, key: Array, x: Array) -> Array: ...

    def prior_sample(self, key: Array, shape: tuple[int, ...]) -> Array: ...

    def prior_logp(self, x: Array) -> Array: ...


def expand(t: Array, x: Array) -> Array:
    """Gives a time-like array, `()` or `(B,)`, trailing axes so that it broadcasts against `x`."""
    t = jnp.asarray(t)
    return t.reshape(t.shape + (1,) * (x.ndim - t.ndim)) if t.ndim else t


def rows(x: Array) -> Array:
    """Each example as a row of its values: `(B, ...)` to `(B, D)`."""
    return x.reshape(x.shape[0], -1)


def total(values: Array) -> Array:
    """The sum over an example, all axes but the first: `(B, ...)` to `(B,)`."""
    return jnp.sum(rows(values), axis=-1)


def dot(u: Array, v: Array) -> Array:
    """The inner product of each example, `(B,)`."""
    return total(u * v)


def rms(x: Array) -> Array:
    """The root mean square of each example, `(B,)`."""
    return jnp.sqrt(jnp.mean(rows(x) ** 2, axis=-1))


def normal_logp(z: Array, std: Array) -> Array:
    """The log density of each element of `std z`, z from N(0, 1), in nats; `std` broadcasts."""
    return -0.5 * z**2 - jnp.log(std) - 0.5 * jnp.log(2.0 * jnp.pi)
