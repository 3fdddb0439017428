"""The law of Karras et al. 2022 (Elucidating the design space): time is the noise level."""

import jax.numpy as jnp
from flax import struct
from jax import Array

from sde_lib.affine import AffinePath, Coeffs


@struct.dataclass
class EDM(AffinePath):
    """`dx = sqrt(2 t) dw`: `a = 1`, `c = t`, `lam = -log t`. The prior is N(0, t1^2)."""

    t0: float = 0.002
    t1: float = 80.0

    def coeffs(self, t: Array) -> Coeffs:
        t = jnp.asarray(t)
        return Coeffs(jnp.ones_like(t), t)

    def lam(self, t: Array) -> Array:
        return -jnp.log(t)

    def t_of_lam(self, lam: Array) -> Array:
        return jnp.exp(-lam)

    def f(self, t: Array) -> Array:
        return jnp.zeros_like(jnp.asarray(t))

    def g2(self, t: Array) -> Array:
        return 2.0 * jnp.asarray(t)
