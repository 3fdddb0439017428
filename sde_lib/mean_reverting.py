"""The mean-reverting law of IR-SDE: from a clean state to a degraded one with noise.

Luo et al. 2023 (arXiv 2301.11699), section 3. For a degraded `mu`, known when
sampling, and `a(t) = exp(-int_0^t theta)`:

    dx = theta (mu - x) dt + g dw,    g^2 = 2 theta std^2
    x_t = a x0 + (1 - a) mu + c z,    c = std sqrt(1 - a^2)

`w = x - (1 - a) mu` obeys `w_t = a x0 + c z`, an affine law, so every method for affine laws
applies to w. The methods of `MeanReverting` are those of w; `mean_reverting_given.py` has the law
of x for a given mu.
"""

import math

import jax
import jax.numpy as jnp
from flax import struct
from jax import Array

from sde_lib.affine import AffinePath, Coeffs
from sde_lib.two_ended import Ends, TwoEnded

SCHEDULES = ("cosine", "constant")

# The cosine schedule's angle is `PHI + RATE t`, from a little above 0 to a right angle: the offset
# 0.008 of Nichol & Dhariwal 2021, eq. 17.
RATE = 0.5 * math.pi / 1.008
PHI = 0.008 * RATE

# y - sin(y) is computed by a series below 1, exact to float64, and as a difference above.
SERIES_BELOW, TERMS = 1.0, 9
NEWTON_STEPS = 8


@struct.dataclass
class MeanReverting(AffinePath):
    """The law of `w = x - (1 - a) mu`; `ends` is that of x, with mu as its second end.

    `int_0^t theta = -log(end) S(t)`, S rising from 0 at t = 0 to 1 at t = 1, so `a(1) = end`.
    Schedules: "constant", S = t, or "cosine", `theta ~ 1 - cos^2(PHI + RATE t) / cos^2(PHI)`, the
    limit of the released chain of 100 levels, which has theta = 0 at the data.

    `std` is the noise of the stationary law, in the units of the data (50 / 255 is for images in
    [0, 1]). With mu = 0 and std = 1 this is a VP law with `beta = 2 theta`.

    The inherited `marginal`, `perturb`, `drift` and `prior_sample` are those of w.
    """

    std: float = 50.0 / 255.0
    end: float = 0.005
    schedule: str = struct.field(pytree_node=False, default="cosine")
    t0: float = 1e-4
    t1: float = 1.0

    def integral(self, t: Array) -> Array:
        """`int_0^t theta`, so `a = exp(-integral)`."""
        return -jnp.log(self.end) * _SHARE[self.schedule](jnp.asarray(t))

    def theta(self, t: Array) -> Array:
        """The rate of reversion to mu, per unit of time."""
        return -jnp.log(self.end) * _SLOPE[self.schedule](jnp.asarray(t))

    def coeffs(self, t: Array) -> Coeffs:
        a, b = _a_b(self.integral(t))
        # 1 - a^2 = (1 - a)(1 + a) is accurate near the data, and one expm1 serves both factors.
        return Coeffs(a, self.std * jnp.sqrt(b * (1.0 + a)))

    @property
    def ends(self) -> "MeanReversion":
        """The law of x."""
        return MeanReversion(self)

    def lam(self, t: Array) -> Array:
        integral = self.integral(t)
        a, b = _a_b(integral)
        return -integral - 0.5 * jnp.log(b * (1.0 + a)) - jnp.log(self.std)

    def t_of_lam(self, lam: Array) -> Array:
        integral = 0.5 * jnp.logaddexp(0.0, -2.0 * (lam + jnp.log(self.std)))
        return _TIME[self.schedule](-integral / jnp.log(self.end))

    def f(self, t: Array) -> Array:
        return -self.theta(t)

    def g2(self, t: Array) -> Array:
        return 2.0 * self.std**2 * self.theta(t)

    def prior_std(self) -> Array:
        return jnp.asarray(self.std, jnp.result_type(float))


@struct.dataclass
class MeanReversion(TwoEnded):
    """`x_t = a x0 + (1 - a) mu + c z`: the law of x between the clean x0 and x1 = mu."""

    path: MeanReverting

    @property
    def t0(self) -> float:
        return self.path.t0

    @property
    def t1(self) -> float:
        return self.path.t1

    def coeffs(self, t: Array) -> Ends:
        a, c = self.path.coeffs(t)
        return Ends(a, -jnp.expm1(-self.path.integral(t)), c)


def make_mean_reverting(**numbers) -> MeanReverting:
    """The law, checked.

    Raises:
        ValueError: for an unknown schedule, a std that is not positive, an `end` outside (0, 1), or
            times that do not rise from above 0 to at most 1.
    """
    path = MeanReverting(**numbers)
    if path.schedule not in SCHEDULES:
        raise ValueError(
            f"schedule is {path.schedule!r}; it must be one of {', '.join(SCHEDULES)}."
        )
    if not path.std > 0.0:
        raise ValueError(f"std is {path.std}; the noise of the stationary law must be positive.")
    if not 0.0 < path.end < 1.0:
        raise ValueError(
            f"end is {path.end}; what is left of the data at t = 1 must lie between 0 and 1."
        )
    if not 0.0 < path.t0 < path.t1 <= 1.0:
        raise ValueError(f"t0 is {path.t0} and t1 is {path.t1}; take 0 < t0 < t1 <= 1.")
    return path


def clip_lam(path: MeanReverting, lowest: float = -5.0) -> MeanReverting:
    """The law with a smaller t1, the time where `lam` is `lowest`, if lam at t1 is below `lowest`.

    A step from a much lower lam has a large length h in lam, and its noise form multiplies the
    error of the noise by `exp(h)`. The released MR sampler clips at -5 too (arXiv 2502.07856).
    """
    if path.lam(jnp.asarray(path.t1)) >= lowest:
        return path
    return path.replace(t1=float(path.t_of_lam(jnp.asarray(lowest))))


def _a_b(integral: Array) -> tuple[Array, Array]:
    """`a = exp(-integral)` and `1 - a`."""
    return jnp.exp(-integral), -jnp.expm1(-integral)


def _y_minus_sin(y: Array) -> Array:
    near = jnp.abs(y) < SERIES_BELOW
    small = jnp.where(near, y, 0.0)
    # y^3 / 6 (1 - y^2 / 20 (1 - y^2 / 42 (...))), from the inside out.
    series = jnp.ones_like(small)
    for k in reversed(range(1, TERMS)):
        series = 1.0 - small**2 / ((2 * k + 2) * (2 * k + 3)) * series
    return jnp.where(near, small**3 / 6.0 * series, y - jnp.sin(y))


def _cosine_area(t: Array) -> Array:
    """`int_0^u sin v sin(v + 2 PHI) dv`, `u = RATE t`, as a sum of positive terms."""
    u = RATE * t
    skew = math.sin(2.0 * PHI) * jnp.sin(u) ** 2
    return 0.5 * (0.5 * math.cos(2.0 * PHI) * _y_minus_sin(2.0 * u) + skew)


def _cosine_height(t: Array) -> Array:
    """The derivative of `_cosine_area` by t."""
    return RATE * jnp.sin(RATE * t) * jnp.sin(RATE * t + 2.0 * PHI)


# `_cosine_area` at t = 1, where y - sin(y) is computed as a difference.
_WHOLE = 0.5 * (
    0.5 * math.cos(2.0 * PHI) * (2.0 * RATE - math.sin(2.0 * RATE))
    + math.sin(2.0 * PHI) * math.sin(RATE) ** 2
)


def _cosine_time(share: Array) -> Array:
    """The t at which the area is `share` of the whole. In logarithms the area is nearly linear with
    a slope of 2 to 3, so a few steps of Newton's method converge to rounding from any start."""
    aim = jnp.log(share) + math.log(_WHOLE)

    def newton(_, log_t):
        t = jnp.exp(log_t)
        area = _cosine_area(t)
        return log_t - (jnp.log(area) - aim) * area / (t * _cosine_height(t))

    return jnp.exp(jax.lax.fori_loop(0, NEWTON_STEPS, newton, 0.4 * jnp.log(share)))


_SHARE = {"constant": lambda t: t, "cosine": lambda t: _cosine_area(t) / _WHOLE}
_SLOPE = {"constant": jnp.ones_like, "cosine": lambda t: _cosine_height(t) / _WHOLE}
_TIME = {"constant": lambda share: share, "cosine": _cosine_time}
