"""DPM-Solver-12 and -23: steps chosen by comparing two orders (Lu et al. 2022, appendix C)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from samplers.adaptive.diffrax_solves import finish
from samplers.base import SampleFn, SampleResult
from samplers.exponential.dpm_solver import FIRST_STAGE, check_stages, pair
from samplers.exponential.integrals import check_form
from sde_lib import AffinePath, check_data_left, expand, rms
from sde_lib.prediction import Cond, PredictFn, bound


class Control(NamedTuple):
    """The numbers of the step-size control: the published values, and a longest step.

    `first` is the first step in lam, `safety` the share of the allowed step that is taken, and
    `max_steps` the largest number of trials. `atol` is one of 256 levels for images in [-1, 1].
    `longest` is the longest step as a part of the whole path in lam. The paper has no such limit
    (`longest = 1`). Over longer steps the two orders may agree by chance, and states of few
    dimensions do not average such chance out.
    """

    rtol: float = 0.05
    atol: float = 0.0078
    first: float = 0.05
    longest: float = 1.0 / 8.0
    safety: float = 0.9
    max_steps: int = 1000


CONTROL = Control()


class Progress(NamedTuple):
    """The progress of each example: `x` and `low` are `(B, ...)`, `trials` is `()`, all other
    fields are `(B,)`. `low` is the lower-order result of the last accepted step."""

    x: Array
    low: Array
    t: Array
    h: Array
    tried: Array
    broken: Array
    trials: Array


def dpm_adaptive(
    path: AffinePath,
    eps: float,
    order: int = 2,
    form: str = "data",
    control: Control = CONTROL,
    per_example: bool = True,
    denoise: bool = False,
) -> SampleFn:
    """Sample from t1 to eps by single steps of order 2 or 3, with `order` evaluations a trial.

    With `E` the root mean square of `(x_high - x_low) / max(atol, rtol max(|x_low|, |x_prev|))`,
    a trial is accepted if `E <= 1`, and the next step is `safety h E^(-1/order)`, never past eps.
    With `per_example` each example has its own steps and does not depend on the others; without
    it the largest E of the batch decides for all, as in the original. An example that does not
    reach eps within `max_steps` trials, or is not finite, is set to nan and marked in `failed`.

    Raises:
        ValueError: for an order or form that does not exist, or an end outside (0, t1).
    """
    if order not in (2, 3):
        raise ValueError(f"The order of adaptive DPM-Solver is {order}; it must be 2 or 3.")
    if not 0.0 < eps < path.t1:
        raise ValueError(f"eps is {eps}; sampling must end between 0 and t1 = {path.t1}.")
    check_form(form)
    check_data_left(path, "a step of DPM-Solver")
    # Both orders share r1 = 1/3 in DPM-Solver-23.
    stages = (check_stages(order, FIRST_STAGE[order], 2.0 / 3.0), 2.0 / 3.0)

    def run(key: Array, predict: PredictFn, x: Array, cond: Cond = None) -> SampleResult:
        del key
        predict = bound(predict, cond)
        end = jnp.full(x.shape[:1], eps, path.lam(jnp.asarray(path.t1, x.dtype)).dtype)

        span = path.lam(end) - path.lam(jnp.full_like(end, path.t1))

        def going(at: Progress) -> Array:
            return (at.t > end) & ~at.broken

        def trial(at: Progress) -> Progress:
            left = path.lam(end) - path.lam(at.t)
            h = jnp.minimum(jnp.minimum(at.h, control.longest * span), left)
            s = jnp.where(h < left, path.t_of_lam(path.lam(at.t) + h), end)
            low, high = pair(path, predict, at.x, at.t, s, order, form, *stages)
            error = disagreement(low, high, at.low, control)
            if not per_example:
                error = jnp.full_like(error, jnp.max(error))
            return advance(at, going(at), s, h, low, high, error)

        def advance(at, active, s, h, low, high, error) -> Progress:
            accepted = active & (error <= 1.0)
            keep = lambda new, old: jnp.where(expand(accepted, x), new, old)
            # An error of exactly 0 would give an infinite step, so the error is bounded below.
            growth = control.safety * jnp.maximum(error, 1e-30) ** (-1.0 / order)
            return Progress(
                x=keep(high, at.x),
                low=keep(low, at.low),
                t=jnp.where(accepted, s, at.t),
                h=jnp.where(active, h * growth, at.h),
                tried=at.tried + active,
                broken=at.broken | (active & ~jnp.isfinite(error)),
                trials=at.trials + 1,
            )

        begin = Progress(
            x=x,
            low=x,
            t=jnp.full_like(end, path.t1),
            h=jnp.full_like(end, control.first),
            tried=jnp.zeros(end.shape, jnp.int32),
            broken=jnp.zeros(end.shape, bool),
            trials=jnp.zeros((), jnp.int32),
        )
        more = lambda at: jnp.any(going(at)) & (at.trials < control.max_steps)
        last = jax.lax.while_loop(more, trial, begin)
        failed = last.t > end
        y = jnp.where(expand(failed, x), jnp.nan, last.x)
        return finish(predict, y, end, order * last.tried, failed, denoise)

    return run


def disagreement(low: Array, high: Array, previous: Array, control: Control) -> Array:
    """The error `E` between two results of one step, in units of the tolerance: `(B,)`."""
    size = jnp.maximum(jnp.abs(low), jnp.abs(previous))
    return rms((high - low) / jnp.maximum(control.atol, control.rtol * size))
