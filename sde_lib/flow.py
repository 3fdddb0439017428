"""The straight path of rectified flow and flow matching (Liu et al. 2023, Lipman et al. 2023)."""

import numbers

import jax.numpy as jnp
from flax import struct
from jax import Array

from sde_lib.affine import AffinePath, Coeffs


@struct.dataclass
class Flow(AffinePath):
    """`x_t = (1 - t) x0 + t z`; velocity `z - x0`; `f = -1 / (1 - t)`, `g^2 = 2 t / (1 - t)`.

    Data at t = 0, as everywhere here (many papers on flows run time the other way). Drift and
    diffusion are singular at t = 1, so `t1` stops just short of it; a velocity network with an ODE
    sampler in t (heun, ddim, bdia, restoration, velocity_ab, adaptive in "t") may use `t1 = 1`.
    Samplers that would be nan there refuse it (`check_data_left`).
    """

    t0: float = 1e-5
    t1: float = 0.999

    @property
    def drowns_data(self) -> bool:
        return isinstance(self.t1, numbers.Real) and self.t1 >= 1.0

    def coeffs(self, t: Array) -> Coeffs:
        t = jnp.asarray(t)
        return Coeffs(1.0 - t, t)

    def lam(self, t: Array) -> Array:
        return jnp.log1p(-t) - jnp.log(t)

    def t_of_lam(self, lam: Array) -> Array:
        return 1.0 / (1.0 + jnp.exp(lam))

    def f(self, t: Array) -> Array:
        return -1.0 / (1.0 - t)

    def g2(self, t: Array) -> Array:
        return 2.0 * t / (1.0 - t)
