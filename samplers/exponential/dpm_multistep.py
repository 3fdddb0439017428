"""DPM-Solver multistep: 2M and 3M, one evaluation a step (Lu et al. 2022, DPM-Solver++, algorithm 2
and section 5 for the SDE; the noise form and 3M as in the authors' code)."""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from samplers.base import Kernel, Sampler, State, drawn
from samplers.exponential.integrals import Interval, check_form, interval, phi, step_ratio, target
from sde_lib import AffinePath, check_data_left, expand


class History(NamedTuple):
    """What the last steps left: predictions and lengths in lam, newest first.

    A length of 0 says that there was no such step. Lengths have the shape of t.
    """

    values: tuple[Array, ...]
    gaps: tuple[Array, ...]


def dpm_multistep(
    path: AffinePath,
    order: int = 2,
    form: str = "data",
    eta: float = 0.0,
    lower_order_final: bool = False,
) -> Sampler:
    """The order rises 1, 2, k with the history there is.

    Args:
        form: "noise" is DPM-Solver, "data" DPM-Solver++.
        eta: strength of the noise, for the data form: 0 the ODE, 1 the reverse SDE (SDE-DPM-
            Solver++). Order 1 with eta = 1 is ancestral sampling.
        lower_order_final: let the order fall again at the end of a run: the last step is of order
            1, the one before at most of order 2. Steadier below about ten steps.

    Raises:
        ValueError: for an order or form that does not exist, a negative eta, or eta in the form
            "noise".
    """
    check(order, form, eta)
    check_data_left(path, "a step of DPM-Solver")

    def init(x: Array, t: Array) -> State:
        gap, earlier = jnp.zeros_like(path.lam(t)), order - 1
        return State(x, History((jnp.zeros_like(x),) * earlier, (gap,) * earlier))

    def kernel(predict, state, span):
        x, past = state
        move = interval(path, span.t, span.s, form, eta)
        now = target(predict(x, span.t), form)
        allowed = jnp.minimum(order, span.n - span.i) if lower_order_final else order
        mean = expand(move.ratio, x) * x
        mean = mean + expand(move.weight, x) * extrapolate(move, now, past, allowed)
        values, gaps = (now, *past.values)[: order - 1], (move.h, *past.gaps)[: order - 1]
        return Kernel(mean, expand(move.std, x), History(values, gaps))

    def flow_step(key, predict, state, span):
        del key
        moved = kernel(predict, state, span)
        return State(moved.mean, moved.memory)

    return drawn(path, kernel, init) if eta != 0.0 else Sampler(init, flow_step, nfe=1)


def check(order: int, form: str, eta: float) -> None:
    check_form(form)
    if order not in (1, 2, 3):
        raise ValueError(f"The order of multistep DPM-Solver is {order}; it must be 1, 2 or 3.")
    if eta < 0.0:
        raise ValueError(f"eta is {eta}; the strength of the noise must not be negative.")
    if eta > 0.0 and form == "noise":
        raise ValueError(f"eta is {eta}; steps with noise exist in the form 'data' only.")


def extrapolate(move: Interval, now: Array, past: History, allowed: Array | int) -> Array:
    """`sum_k phi_{k+1}(z) D_k`, the derivatives taken from the past.

    With `A` and `B` the slopes over the last step and the one before, both per step of now:

        order 1   phi_1 f
        order 2   phi_1 (f + A / 2)
        order 3   phi_1 f + phi_2 D_1 + phi_3 D_2,
                  D_1 = A + r0 / (r0 + r1) (A - B),  D_2 = (A - B) / (r0 + r1)

    with `r0, r1` the last two lengths over this one's. `D_2` as published is half the second
    derivative, so 3M is a 2M of smaller error, of order 2 from however exact a start; the full one
    is `adams_bashforth` of order 3. Where a past step is missing, its
    coefficient is 0: the orders are three sets of numbers, not three branches.
    """
    total = expand(phi(1, move.z), now) * now
    if not past.values:
        return total
    last, gap = past.values[0], past.gaps[0]
    ratio = step_ratio(move.h, gap)
    slope = expand(ratio, now) * (now - last)
    has_two = (gap > 0.0) & (allowed >= 2)
    on_slope = jnp.where(has_two, 0.5 * phi(1, move.z), 0.0)
    if len(past.values) == 1:
        return total + expand(on_slope, now) * slope
    earlier = past.gaps[1]
    has_three = has_two & (earlier > 0.0) & (allowed >= 3)
    change = slope - expand(step_ratio(move.h, earlier), now) * (last - past.values[1])
    both = gap + earlier
    first, second = step_ratio(gap, both), step_ratio(move.h, both)
    on_change = first * phi(2, move.z) + second * phi(3, move.z)
    on_slope = jnp.where(has_three, phi(2, move.z), on_slope)
    on_change = jnp.where(has_three, on_change, 0.0)
    return total + expand(on_slope, now) * slope + expand(on_change, now) * change
