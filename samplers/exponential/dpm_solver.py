"""DPM-Solver in single steps (Lu et al. 2022, algorithms 1 and 2; DPM-Solver++, algorithm 1)."""

from jax import Array

from samplers.base import Sampler, State, start
from samplers.exponential.integrals import (
    check_form,
    combine,
    first_order,
    interval,
    target,
    time_between,
)
from sde_lib import AffinePath, check_data_left
from sde_lib.prediction import PredictFn

FIRST_STAGE = {1: 0.5, 2: 0.5, 3: 1.0 / 3.0}


def dpm_solver(
    path: AffinePath,
    order: int = 2,
    form: str = "data",
    r1: float | None = None,
    r2: float = 2.0 / 3.0,
) -> Sampler:
    """Single steps of order 1 (DDIM), 2 or 3, with as many evaluations as the order and no memory.

    Args:
        form: "noise" is DPM-Solver, "data" DPM-Solver++.
        r1, r2: places of the inner stages in lam, as parts of the step; r1 is 1/2 for order 2 and
            1/3 for order 3 unless it is given. Order 3 needs r2 = 2/3.

    Raises:
        ValueError: for an order, form or stage that does not exist.
    """
    r1 = check_stages(order, r1, r2)
    check_form(form)
    check_data_left(path, "a step of DPM-Solver")

    def step(key, predict, state, span):
        t, s = span.t, span.s
        del key
        return State(pair(path, predict, state.x, t, s, order, form, r1, r2)[1])

    return Sampler(start, step, nfe=order)


def check_stages(order: int, r1: float | None, r2: float) -> float:
    """The first stage r1, or its default for the order if r1 is None.

    Raises:
        ValueError: for an order outside 1 to 3, or stages that do not rise within the step.
    """
    if order not in FIRST_STAGE:
        raise ValueError(f"The order of DPM-Solver is {order}; it must be 1, 2 or 3.")
    r1 = FIRST_STAGE[order] if r1 is None else r1
    if not 0.0 < r1 < (r2 if order == 3 else 1.0) or not r2 < 1.0:
        raise ValueError(
            f"The stages are r1 = {r1} and r2 = {r2}; they must rise strictly between 0 and 1."
        )
    return r1


def pair(
    path: AffinePath,
    predict: PredictFn,
    x: Array,
    t: Array,
    s: Array,
    order: int,
    form: str,
    r1: float,
    r2: float,
) -> tuple[Array, Array]:
    """The results of the steps of order k - 1 and k from k evaluations (twice order 1 for k = 1).

    `f_t`, `f_1` and `f_2` are the predictions at t and at the parts r1 and r2 of the step in lam;
    `D_0` and `D_1` are the derivatives that `integrals.combine` takes:

        1   D_0 = f_t
        2   D_0 = f_t + (f_1 - f_t) / (2 r1), without D_1
        3   D_0 = f_t, D_1 = (f_2 - f_t) / r2, where x_2 was computed with D_1 = r2 (f_1 - f_t) / r1
    """
    whole = interval(path, t, s, form)
    f_t = target(predict(x, t), form)
    low = combine(x, whole, f_t)
    if order == 1:
        return low, low
    t_1 = time_between(path, t, s, r1)
    x_1 = first_order(path, x, f_t, t, t_1, form)
    slope = (target(predict(x_1, t_1), form) - f_t) / r1
    second = combine(x, whole, f_t + 0.5 * slope)
    if order == 2:
        return low, second
    t_2 = time_between(path, t, s, r2)
    x_2 = combine(x, interval(path, t, t_2, form), f_t, r2 * slope)
    return second, combine(x, whole, f_t, (target(predict(x_2, t_2), form) - f_t) / r2)
