"""A law that is not affine: overdamped Langevin motion in a quartic potential.

    dx = (linear x - cubic x^3) dt + g dw,    each coordinate for itself

It has no kernel in closed form, but a known stationary density, which is the prior:

    log pi(x) = (linear x^2 - cubic x^4 / 2) / g^2 - log Z
"""

import jax
import jax.numpy as jnp
from flax import struct
from jax import Array

from sde_lib.base import total
from sde_lib.noise import draw_like, normal_like

# The prior is tabulated out to where it has fallen by exp(-40) from its value at 0. The trapezoidal
# rule is then exact to rounding, and draws are right to 2e-5 of the table's half width in float32.
FALLEN = 40.0
TABLE_SIZE = 2049


@struct.dataclass
class DoubleWell:
    """Two wells at `+- sqrt(linear / cubic)` for linear > 0, one at 0 otherwise.

    Numbers: `linear` in 1 / time and `cubic` >= 0 in 1 / (time x^2). With cubic = 0 linear must be
    below 0. The law is then the Ornstein-Uhlenbeck process, and with `g^2 = -2 linear` it is VP
    with `beta = -2 linear`. The law approaches its prior as `exp(-gap t)`, with `spectral_gap` of
    `exact/fokker_planck.py`. The gap is 0.42 for the numbers below, so at t1 = 10 a share of 1.5 %
    is left of the slowest mode.

    Offers the protocol `SDE`, for states of any shape. Euler steps of h need `h cubic x^2 < 2`, or
    the cubic term throws x out.
    """

    linear: float = 1.0
    cubic: float = 1.0
    g: float = 1.0
    t0: float = 0.0
    t1: float = 10.0
    diffusion_type = "scalar"

    def drift(self, x: Array, t: Array) -> Array:
        del t
        return (self.linear - self.cubic * x**2) * x

    def diffusion(self, x: Array, t: Array) -> Array:
        del x
        return self.g * jnp.ones_like(jnp.asarray(t, jnp.result_type(float)))

    def noise(self, key: Array, x: Array) -> Array:
        """Standard normal noise like `x`; `key` is one key or one per example."""
        return normal_like(key, x)

    def prior_score(self, x: Array) -> Array:
        """`grad log pi = 2 drift / g^2`.

        If the score is this function plus the output of a network, the flow ODE is `-g^2 / 2` times
        that output, without the cubic term. A network that learns the whole score must cancel the
        cubic term itself; where data are rare it does not, and x diverges.
        """
        return 2.0 / self.g**2 * self.drift(x, 0.0)

    def log_weight(self, x: Array) -> Array:
        """`log pi(x) + log Z` of each element."""
        return (self.linear - 0.5 * self.cubic * x**2) * x**2 / self.g**2

    def prior_sample(self, key: Array, shape: tuple[int, ...]) -> Array:
        """Draws `(B, ...)` from the stationary density by its inverse distribution function."""
        x, mass, _ = self._table()
        cdf = jnp.cumsum(0.5 * (mass[1:] + mass[:-1]))
        cdf = jnp.pad(cdf / cdf[-1], (1, 0))
        u = draw_like(jax.random.uniform, key, jnp.zeros(shape))
        return jnp.interp(u, cdf, x)

    def prior_logp(self, x: Array) -> Array:
        """Log density of the prior in nats, summed over all axes but the first: `(B,)`."""
        nodes, mass, top = self._table()
        # The integrand is zero at both ends, so the half weights of the trapezoidal rule are not
        # needed.
        log_z = top + jnp.log(jnp.sum(mass) * (nodes[1] - nodes[0]))
        return total(self.log_weight(x) - log_z)

    def _table(self) -> tuple[Array, Array, Array]:
        """Even nodes across the prior, the weights there as shares of the largest weight, and the
        logarithm of the largest weight. That logarithm is `(linear / g)^2 / (2 cubic)`; in deep
        wells its exponential would overflow."""
        fall = FALLEN * self.g**2
        width = jnp.sqrt(
            2.0 * fall / (jnp.sqrt(self.linear**2 + 2.0 * self.cubic * fall) - self.linear)
        )
        x = width * jnp.linspace(-1.0, 1.0, TABLE_SIZE)
        weight = self.log_weight(x)
        top = jnp.max(weight)
        return x, jnp.exp(weight - top), top
