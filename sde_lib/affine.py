"""Affine laws: one formula from which all else follows.

    x_t = a(t) x0 + c(t) z,    z ~ N(0, I)

A law gives `coeffs(t)`; the rest follows (Song et al. 2021, section 3.4 and appendix B; Karras et
al. 2022, appendix B). Laws with a second end point are in `two_ended.py`.

    drift       f(t) x,  f = a' / a
    diffusion   g(t)^2 = (c^2)' - 2 f c^2
    velocity    a' x0 + c' z, of the probability-flow ODE once x0 and z are conditional means
    lam         log(a / c), half the log signal-to-noise ratio, falling in t

The defaults below differentiate `coeffs`; a law overrides them where the closed form is exact at
a point where autodiff is not. Everything is computed in the dtype of `t`, so times should be
float32 (or float64) whatever the network computes in.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from sde_lib.base import expand, normal_logp, total
from sde_lib.noise import normal_like
from sde_lib.ranges import rising

# Limit of |log(c / a)|: the square of exp(43.6) is a fifth of the largest float32.
LARGEST = 43.6


class Coeffs(NamedTuple):
    """Coefficients of data and noise, each of the shape of `t`."""

    a: Array
    c: Array


class Transition(NamedTuple):
    """The forward kernel from s to t > s: `x_t = r x_s + q z`."""

    r: Array
    q: Array


class AffinePath:
    """A law with a known Gaussian kernel. Abstract: subclasses add `t0`, `t1` and `coeffs`.

    Subclasses are `flax.struct` dataclasses of numbers. The numbers are leaves of a pytree, which
    can be mapped over, differentiated and printed. A number may be a tracer, so the constructor
    does not validate the numbers; `check` does.
    """

    t0: float
    t1: float
    diffusion_type = "scalar"

    @property
    def drowns_data(self) -> bool:
        """Whether nothing is left of the data at t1, `a = 0`, where lam is -inf."""
        return False

    def check(self) -> None:
        """Refuse numbers that the law cannot have. A law with numbers of its own extends this.

        Raises:
            ValueError: where t0 and t1 do not rise from above 0, or for a noise-to-signal ratio
                c / a, whose square samplers and losses take, that leaves the range of float32.
        """
        rising(t0=self.t0, t1=self.t1)
        if self.drowns_data:
            raise ValueError(f"t1 is {self.t1}; it must be below 1, where the drift is infinite.")
        check_float32(self)

    def coeffs(self, t: Array) -> Coeffs:
        raise NotImplementedError

    def lam(self, t: Array) -> Array:
        """Half log signal-to-noise ratio, `log(a / c)`, in nats."""
        a, c = self.coeffs(t)
        return jnp.log(a) - jnp.log(c)

    def t_of_lam(self, lam: Array) -> Array:
        """The inverse of `lam`."""
        raise NotImplementedError

    def sigma(self, t: Array) -> Array:
        """Noise level `c / a`, in the units of the data: the noise of `x / a`."""
        return jnp.exp(-self.lam(t))

    def t_of_sigma(self, sigma: Array) -> Array:
        """The inverse of `sigma`."""
        return self.t_of_lam(-jnp.log(sigma))

    def rates(self, t: Array) -> Coeffs:
        """`(a', c')`, time derivatives of the coefficients."""
        t = jnp.asarray(t)
        return jax.jvp(self.coeffs, (t,), (jnp.ones_like(t),))[1]

    def f(self, t: Array) -> Array:
        """Rate of the linear drift, `a' / a`."""
        return self.rates(t).a / self.coeffs(t).a

    def g2(self, t: Array) -> Array:
        """Squared diffusion, `(c^2)' - 2 f c^2`."""
        c, dc = self.coeffs(t).c, self.rates(t).c
        return 2.0 * c * (dc - self.f(t) * c)

    def drift(self, x: Array, t: Array) -> Array:
        return expand(self.f(t), x) * x

    def diffusion(self, x: Array, t: Array) -> Array:
        del x
        return jnp.sqrt(self.g2(t))

    def noise(self, key: Array, x: Array) -> Array:
        """Standard normal noise like `x`; `key` is one key or one per example."""
        return normal_like(key, x)

    def marginal(self, x0: Array, z: Array, t: Array) -> Array:
        """`a x0 + c z`, the noisy state for given data and noise."""
        a, c = self.coeffs(t)
        return expand(a, x0) * x0 + expand(c, x0) * z

    def perturb(self, key: Array, x0: Array, t: Array) -> tuple[Array, Array]:
        """Draws `x_t` given `x0`; returns `(x_t, z)`. Shapes: `x0` (B, ...), `t` () or (B,)."""
        z = self.noise(key, x0)
        return self.marginal(x0, z, t), z

    def forward_step(self, s: Array, t: Array) -> Transition:
        """The kernel from s to t >= s: `r = a_t / a_s`, `q^2 = c_t^2 - r^2 c_s^2`.

        The difference of squares is computed as a product, which loses the fewest digits where t
        and s are close: in float32, over 2000 steps of any law here, q is right to 1e-4.
        """
        (a_s, c_s), (a_t, c_t) = self.coeffs(s), self.coeffs(t)
        r = a_t / a_s
        # By rounding, the difference may be negative where t and s are close.
        return Transition(r, jnp.sqrt(jnp.maximum(c_t - r * c_s, 0.0) * (c_t + r * c_s)))

    def total(self, values: Array) -> Array:
        """Sums over all axes but the first, `(B,)`; a state of several parts has one a part."""
        return total(values)

    def prior_std(self) -> Array:
        """Standard deviation of the prior. The default is `c(t1)`, where noise hides the data."""
        return self.coeffs(jnp.asarray(self.t1, jnp.result_type(float))).c

    def prior_sample(self, key: Array, shape: tuple[int, ...]) -> Array:
        """Draws `(B, ...)` from the prior; `key` is one key or one per example."""
        return self.prior_std() * self.noise(key, jnp.zeros(shape))

    def prior_logp(self, x: Array) -> Array:
        """Log density of the prior in nats, summed over all axes but the first: `(B,)`."""
        std = self.prior_std()
        return total(normal_logp(x / std, std))


def check_float32(path: AffinePath) -> None:
    """Raises:
    ValueError: for a law whose (c / a)^2 leaves the range of float32 at either end.
    """
    lam = np.asarray(path.lam(np.asarray([path.t0, path.t1], np.float32)), np.float64)
    if np.all(np.abs(lam) < LARGEST):
        return
    name = next((key for key in ("beta_max", "sigma_max") if hasattr(path, key)), "t1")
    first, last = np.exp(-lam)
    raise ValueError(
        f"{name} is {getattr(path, name)}, which makes the noise {first:.3g} times the data at t0 "
        f"and {last:.3g} times at t1; float32 holds the square of what lies between "
        f"{np.exp(-LARGEST):.1g} and {np.exp(LARGEST):.1g} only, so lower it."
    )


def check_data_left(path: AffinePath, what: str) -> None:
    """Raises:
    ValueError: for a law that `drowns_data`, of which `what` would be nan.
    """
    if getattr(path, "drowns_data", False):
        raise ValueError(
            f"{type(path).__name__} has t1 = {path.t1}, where nothing is left of the data (a = 0, "
            f"log-SNR -inf), and {what} is not defined there; take t1 = 0.999, or a method and a "
            "grid in t, such as heun, ddim or velocity_ab on 'uniform'."
        )
