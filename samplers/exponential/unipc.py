"""UniPC (Zhao et al. 2023): a predictor of order p and a corrector of order p + 1 which reuses the
evaluation that the next step makes anyway."""

import jax.numpy as jnp
from jax import Array

from samplers.base import Sampler, State
from samplers.exponential.adams_bashforth import (
    check,
    correction,
    empty_history,
    kernel,
    push,
    shorten,
    used,
    weights,
)
from samplers.exponential.integrals import first_order, target
from sde_lib import AffinePath, check_data_left, expand

VARIANTS = ("b1", "b2")


def unipc(path: AffinePath, order: int = 2, form: str = "data", variant: str = "b2") -> Sampler:
    """UniPC-p, one evaluation a step, which serves three ends.

    At t the output of the network at the *predicted* x first corrects the step that led there (the
    output being the newest of p + 1 points), then is the newest of the p points that predict s.
    The last step is left uncorrected, as the authors leave it: that would take one more evaluation.

    The authors' linear system for three points and more has the polynomial through them as its
    solution, whatever B(h); for two they set its solution to 1/2, and the weight is
    `B(h) / (2 h r)` with `B = h` ("b1") or `exp(h) - 1` ("b2"). So "b2" with p = 2 predicts as
    DPM-Solver 2M does. Steps at the start use the points there are.

    Args:
        order: 1 to 4.
        form: what is expanded, "data" or "noise".
        variant: "b1" or "b2", above.

    Raises:
        ValueError: for an order outside 1 to 4, or an unknown form or variant.
    """
    check(order, form)
    check_data_left(path, "a step of UniPC")
    if variant not in VARIANTS:
        raise ValueError(f"variant is {variant!r}; it must be one of {', '.join(VARIANTS)}.")

    def init(x: Array, t: Array) -> State:
        return State(x, empty_history(x, t, order))

    def change(times, outputs, t, s):
        w = pair_weights(path, form, variant, times, t, s)
        return correction(path, form, outputs, w, t, s)

    def step(key, predict, state, span):
        t, s = span.t, span.s
        del key
        x, past = state.x, state.memory
        output = target(predict(x, t), form)
        # Predictor and corrector differ in the weights alone, so the x before is not remembered.
        times = jnp.concatenate([past.times, jnp.asarray(t)[None]])
        outputs = jnp.concatenate([past.outputs, output[None]])
        before = past.times[0]
        corrected = x + change(times, outputs, before, t)
        if order > 1:
            corrected = corrected - change(past.times, past.outputs, before, t)
        # A step of length zero, with which a grid is padded at its end, leaves x as it is.
        x = jnp.where(expand(t == s, x), x, corrected)
        history = shorten(push(past, t, output))
        x_next = first_order(path, x, output, t, s, form)
        if order > 1:
            x_next = x_next + change(history.times, history.outputs, t, s)
        return State(x_next, history)

    return Sampler(init, step, nfe=1)


def pair_weights(
    path: AffinePath, form: str, variant: str, times: Array, t: Array, s: Array
) -> Array:
    """`weights` `(k - 1, ...)`, replaced by `B(h) / (2 h r)`, `r = (lam_j - lam_t) / h`, where just
    two of the points are there."""
    h = path.lam(s) - path.lam(t)
    exact, there = weights(path, form, times, t, s), used(times)
    rate = jnp.sum(kernel(form, h), axis=0) if variant == "b2" else jnp.ones_like(h)
    gaps = jnp.where(there, path.lam(times) - path.lam(t)[None], 1.0)[1:]
    halves = jnp.where(there[1:], (0.5 * rate * h)[None] / gaps, 0.0)
    return jnp.where(jnp.sum(there, axis=0, keepdims=True) == 2, halves, exact)
