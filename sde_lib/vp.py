"""The variance-preserving law (Song et al. 2021, eq. 11 and 33), the limit of DDPM."""

import jax.numpy as jnp
from flax import struct
from jax import Array

from sde_lib.affine import AffinePath, Coeffs, Transition
from sde_lib.ranges import rising


@struct.dataclass
class VP(AffinePath):
    """`dx = -beta x / 2 dt + sqrt(beta) dw` with `beta = beta_min + t (beta_max - beta_min)`.

    With B(t) the integral of beta: `a = exp(-B / 2)`, `c = sqrt(1 - exp(-B))`,
    `lam = -log(exp(B) - 1) / 2`. The prior is N(0, I).
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
        return Coeffs(jnp.exp(-0.5 * B), jnp.sqrt(-jnp.expm1(-B)))

    def lam(self, t: Array) -> Array:
        # log(expm1(B)) is not used: in a sum that jaxlib 0.10.2 fuses on the CPU, expm1(B) may be
        # replaced by the expm1(-B) of `coeffs` (tests/test_platform.py).
        B = integral_of_beta(self, t)
        return -0.5 * (B + jnp.log(-jnp.expm1(-B)))

    def t_of_lam(self, lam: Array) -> Array:
        return time_of_integral(self, jnp.logaddexp(0.0, -2.0 * lam))

    def forward_step(self, s: Array, t: Array) -> Transition:
        # The ratio of two a is not used, as both may underflow.
        B = integral_of_beta(self, t, s)
        return Transition(jnp.exp(-0.5 * B), jnp.sqrt(-jnp.expm1(-B)))

    def f(self, t: Array) -> Array:
        return -0.5 * self.beta(t)

    def g2(self, t: Array) -> Array:
        return self.beta(t)

    def prior_std(self) -> Array:
        return jnp.ones(())


def integral_of_beta(law, t: Array, s: Array | float = 0.0) -> Array:
    """The integral of beta from s to t; `B(t)` for s = 0. It is computed as a product, not as a
    difference of two B."""
    t = jnp.asarray(t)
    return (t - s) * (law.beta_min + 0.5 * (t + s) * (law.beta_max - law.beta_min))


def time_of_integral(law, B: Array) -> Array:
    """The inverse of `integral_of_beta`, in the form that keeps its digits for small B."""
    root = jnp.sqrt(law.beta_min**2 + 2.0 * (law.beta_max - law.beta_min) * B)
    return 2.0 * B / (law.beta_min + root)
