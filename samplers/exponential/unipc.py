"""UniPC (Zhao et al. 2023): a predictor of order p and a corrector of order p + 1 that reuses the
evaluation of the next step."""

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
    """UniPC-p, at one evaluation a step.

    The output of the network at t, evaluated at the *predicted* x, is used twice. First it corrects
    the step that led to t, as the newest of p + 1 points; then it predicts s, as the newest of p
    points. The last step stays uncorrected, as in the authors' code: correcting it would need one
    more evaluation.

    For three or more points the solution of the authors' linear system is the polynomial through
    them, for any B(h). For two points the authors set the solution to 1/2, so the weight is
    `B(h) / (2 h r)` with `B = h` ("b1") or `exp(h) - 1` ("b2"). "b2" with p = 2 therefore predicts
    like DPM-Solver 2M. The first steps use the points that are known.

    Args:
        order: 1 to 4.
        form: the expanded prediction, "data" or "noise".
        variant: the function B(h), "b1" or "b2".

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
        # Predictor and corrector differ in their weights only, so the previous x is not needed.
        times = jnp.concatenate([past.times, jnp.asarray(t)[None]])
        outputs = jnp.concatenate([past.outputs, output[None]])
        before = past.times[0]
        corrected = x + change(times, outputs, before, t)
        if order > 1:
            corrected = corrected - change(past.times, past.outputs, before, t)
        # Grids are padded at their end with steps of length zero, which must leave x unchanged.
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
    """`weights` `(k - 1, ...)`, replaced by `B(h) / (2 h r)`, `r = (lam_j - lam_t) / h`, if only
    two points are known."""
    h = path.lam(s) - path.lam(t)
    exact, there = weights(path, form, times, t, s), used(times)
    rate = jnp.sum(kernel(form, h), axis=0) if variant == "b2" else jnp.ones_like(h)
    gaps = jnp.where(there, path.lam(times) - path.lam(t)[None], 1.0)[1:]
    halves = jnp.where(there[1:], (0.5 * rate * h)[None] / gaps, 0.0)
    return jnp.where(jnp.sum(there, axis=0, keepdims=True) == 2, halves, exact)
