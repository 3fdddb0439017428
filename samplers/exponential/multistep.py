"""Multistep exponential integrators of orders 1 to 3: one evaluation a step, from the last outputs.

`dpm_multistep` and the MR sampler (`samplers/steps/mean_reverting.py`) are both this method, with
different weights of the slope (`SLOPES`).
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from samplers.base import Kernel, Sampler, State, drawn, mean_of
from samplers.exponential.integrals import Interval, interval, phi, step_ratio, target
from sde_lib import AffinePath, expand

# The weight of the slope over the last step in a step of order 2, as a function of z. "half" is the
# factor of DPM-Solver; "line" is the integral of the line through both outputs, as in
# Adams-Bashforth.
SLOPES: dict[str, Callable[[Array], Array]] = {
    "half": lambda z: 0.5 * phi(1, z),
    "line": lambda z: phi(2, z),
}


class PastSteps(NamedTuple):
    """The predictions and the lengths in lam of the last steps, newest first.

    A length of 0 means that there was no such step. Lengths have the shape of t.
    """

    values: tuple[Array, ...]
    gaps: tuple[Array, ...]


def check(order: int, eta: float, name: str) -> None:
    if order not in (1, 2, 3):
        raise ValueError(f"The order of {name} is {order}; it must be 1, 2 or 3.")
    if eta < 0.0:
        raise ValueError(f"eta is {eta}; the strength of the noise must not be negative.")


def multistep(
    path: AffinePath, order: int, form: str, eta: float, lower_order_final: bool, slope: str
) -> Sampler:
    """The multistep method with a `slope` of `SLOPES`.

    The order rises from 1 over 2 to `order` as the history fills. With `lower_order_final` the
    order is at most the number of steps that are left.
    """

    def init(x: Array, t: Array) -> State:
        gap, earlier = jnp.zeros_like(path.lam(t)), order - 1
        return State(x, PastSteps((jnp.zeros_like(x),) * earlier, (gap,) * earlier))

    def kernel(predict, state, span):
        x, past = state
        move = noisy_interval(path, span.t, span.s, form, eta)
        now = target(predict(x, span.t), form)
        allowed = jnp.minimum(order, span.n - span.i) if lower_order_final else order
        mean = expand(move.ratio, x) * x
        mean = mean + expand(move.weight, x) * extrapolate(move, now, past, allowed, slope)
        values, gaps = (now, *past.values)[: order - 1], (move.h, *past.gaps)[: order - 1]
        return Kernel(mean, expand(move.std, x), PastSteps(values, gaps))

    return drawn(path, kernel, init) if eta != 0.0 else mean_of(kernel, init)


def noisy_interval(path: AffinePath, t: Array, s: Array, form: str, eta: float) -> Interval:
    """`interval`, extended to eta > 0 in the noise form.

    In the noise form the linear part stays `a_s / a_t`. The SDE with the diffusion `sqrt(eta) g`
    multiplies the weight of the predicted noise by `1 + eta` and adds noise of variance
    `std^2 = eta c_s^2 (exp(2 h) - 1)`.
    """
    if form == "data" or eta == 0.0:
        return interval(path, t, s, form, eta)
    plain = interval(path, t, s, form)
    std = path.coeffs(s).c * jnp.sqrt(eta * jnp.expm1(2.0 * plain.h))
    return plain._replace(weight=(1.0 + eta) * plain.weight, std=std)


def extrapolate(
    move: Interval, now: Array, past: PastSteps, allowed: Array | int, slope: str
) -> Array:
    """`sum_k phi_{k+1}(z) D_k`, with derivatives estimated from past outputs.

    f is the current output; `A` and `B` are the slopes over the last step and the one before, both
    scaled to the length of the current step:

        order 1   phi_1 f
        order 2   phi_1 (f + A / 2) with the slope "half", phi_1 f + phi_2 A with "line"
        order 3   phi_1 f + phi_2 D_1 + phi_3 D_2,
                  D_1 = A + r0 / (r0 + r1) (A - B),  D_2 = (A - B) / (r0 + r1)

    `r0` and `r1` are the lengths of the last two steps divided by that of the current step. The
    published `D_2` is half the second derivative. 3M therefore has order 2 however exact its start
    is, with a smaller error than 2M; `adams_bashforth` of order 3 uses the full second derivative.
    The coefficient of a missing past step is 0, so the orders differ in numbers and need no branch.
    """
    total = expand(phi(1, move.z), now) * now
    if not past.values:
        return total
    last, gap = past.values[0], past.gaps[0]
    rise = expand(step_ratio(move.h, gap), now) * (now - last)
    has_two = (gap > 0.0) & (allowed >= 2)
    on_rise = jnp.where(has_two, SLOPES[slope](move.z), 0.0)
    if len(past.values) == 1:
        return total + expand(on_rise, now) * rise
    earlier = past.gaps[1]
    has_three = has_two & (earlier > 0.0) & (allowed >= 3)
    change = rise - expand(step_ratio(move.h, earlier), now) * (last - past.values[1])
    both = gap + earlier
    first, second = step_ratio(gap, both), step_ratio(move.h, both)
    on_change = first * phi(2, move.z) + second * phi(3, move.z)
    on_rise = jnp.where(has_three, phi(2, move.z), on_rise)
    on_change = jnp.where(has_three, on_change, 0.0)
    return total + expand(on_rise, now) * rise + expand(on_change, now) * change
