"""The variance-exploding law (Song et al. 2021, eq. 9 and 31), the limit of SMLD."""

import jax.numpy as jnp
from flax import struct
from jax import Array

from sde_lib.affine import AffinePath, Coeffs
from sde_lib.ranges import rising


@struct.dataclass
class VE(AffinePath):
    """`dx = sigma sqrt(2 log(sigma_max / sigma_min)) dw`, `sigma = sigma_min (max / min)^t`.

    `a = 1`, `c = sigma(t)`, `lam = -log sigma`. As in the original, `sigma(0) = sigma_min`, not 0:
    the law starts from data that already carry noise of that size. The prior is
    N(0, sigma_max^2), which leaves out the spread of the data themselves.
    """

    sigma_min: float = 0.01
    sigma_max: float = 50.0
    t0: float = 1e-5
    t1: float = 1.0

    def check(self) -> None:
        rising(sigma_min=self.sigma_min, sigma_max=self.sigma_max)
        super().check()

    def log_ratio(self) -> Array:
        return jnp.log(self.sigma_max) - jnp.log(self.sigma_min)

    def coeffs(self, t: Array) -> Coeffs:
        t = jnp.asarray(t)
        return Coeffs(jnp.ones_like(t), jnp.exp(-self.lam(t)))

    def lam(self, t: Array) -> Array:
        return -jnp.log(self.sigma_min) - jnp.asarray(t) * self.log_ratio()

    def t_of_lam(self, lam: Array) -> Array:
        return (-lam - jnp.log(self.sigma_min)) / self.log_ratio()

    def f(self, t: Array) -> Array:
        return jnp.zeros_like(jnp.asarray(t))

    def g2(self, t: Array) -> Array:
        return 2.0 * self.log_ratio() * self.coeffs(t).c ** 2
