"""The sub-VP law (Song et al. 2021, eq. 13 and 29), whose variance stays below VP's."""

import jax.numpy as jnp
from flax import struct
from jax import Array

from sde_lib.affine import AffinePath, Coeffs
from sde_lib.ranges import rising
from sde_lib.vp import integral_of_beta, time_of_integral


@struct.dataclass
class SubVP(AffinePath):
    """`dx = -beta x / 2 dt + sqrt(beta (1 - exp(-2 B))) dw`, beta and B as in `VP`.

    `a = exp(-B / 2)`, `c = 1 - exp(-B)` (a standard deviation, not a variance), so
    `c / a = 2 sinh(B / 2)`. The prior is N(0, I).
    """

    beta_min: float = 0.1
    beta_max: float = 20.0
    t0: float = 1e-5
    t1: float = 1.0

    def check(self) -> None:
        rising(beta_min=self.beta_min, beta_max=self.beta_max)
        super().check()

    def beta(self, t: Array) -> Array:
        return self.beta_min + t * (self.beta_max - self.beta_min)

    def coeffs(self, t: Array) -> Coeffs:
        B = integral_of_beta(self, t)
        return Coeffs(jnp.exp(-0.5 * B), -jnp.expm1(-B))

    def lam(self, t: Array) -> Array:
        # The sinh of a large B would overflow. For the sign of B see `VP.lam`.
        B = integral_of_beta(self, t)
        return -0.5 * B - jnp.log(-jnp.expm1(-B))

    def t_of_lam(self, lam: Array) -> Array:
        # 2 arcsinh(exp(-lam) / 2). For a positive argument the function is split so that no
        # exponential is large.
        low, high = jnp.maximum(lam, 0.0), jnp.minimum(lam, 0.0)
        large = 2.0 * (jnp.log(0.5 + jnp.sqrt(0.25 + jnp.exp(2.0 * high))) - high)
        small = 2.0 * jnp.arcsinh(0.5 * jnp.exp(-low))
        return time_of_integral(self, jnp.where(lam < 0.0, large, small))

    def f(self, t: Array) -> Array:
        return -0.5 * self.beta(t)

    def g2(self, t: Array) -> Array:
        # 1 - exp(-2 B) = c (2 - c), computed from the expm1 of `coeffs` alone (see `VP.lam`).
        c = self.coeffs(t).c
        return self.beta(t) * c * (2.0 - c)

    def prior_std(self) -> Array:
        return jnp.ones(())
