"""Draws from a law without a kernel: its forward SDE in Euler-Maruyama steps."""

import jax
import jax.numpy as jnp
from jax import Array

from sde_lib.base import SDE, expand
from sde_lib.noise import fold_in
from sde_lib.reverse import noise_term


def simulate(sde: SDE, key: Array, x0: Array, t: Array, steps: int) -> Array:
    """x_t of data x0 `(B, ...)` at t0, t `()` or `(B,)`, in `steps` equal steps up to it.

    `key` is one key or one per example; step i draws from `fold_in(key, i)`. The weak order is 1:
    the error of the moments is proportional to `(t - t0) / steps`. Any law can be simulated, but a
    law with a Gaussian kernel is drawn exactly by `perturb`.
    """
    h = (jnp.asarray(t, x0.dtype) - sde.t0) / steps

    def body(x: Array, i: Array):
        s = sde.t0 + i * h
        z = noise_term(sde, x, s, sde.noise(fold_in(key, i), x))
        return x + expand(h, x) * sde.drift(x, s) + expand(jnp.sqrt(h), x) * z, None

    return jax.lax.scan(body, x0, jnp.arange(steps))[0]
