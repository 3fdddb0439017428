"""A fixed number of steps with one evaluation each: Adams predictor and corrector.

Per step from u_i to u_{i+1}, with f the field and p_k the polynomial through its last k values,

    predict    y*      = y_i + int p_k(u) du                     Adams-Bashforth
    evaluate   f_{i+1} = f(y*, u_{i+1})
    correct    y_{i+1} = y_i + int p_{k+1}(u) du                 Adams-Moulton, f_{i+1} included

("PEC" mode; Hairer, Norsett, Wanner, Solving Ordinary Differential Equations I, section III.1). The
nodes are known beforehand, so the weights are computed once, in float64. The first steps use as
many values as there are. All examples take the same steps, so no example depends on another.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from samplers.adaptive.frame import VARIABLES, Frame
from samplers.exponential.lagrange import gauss, lagrange
from sde_lib.ranges import one_of, positive

MAX_ORDER = 8
# Positions of the nodes between data and noise, for w even in [0, 1]. Over the angle the nodes are
# closer together at both ends. They are closest at the data, where the first steps have a low order
# and a field that has learned single points is sharp. At the noise, a network that gets the log-SNR
# would pass through much of its range in one step.
GRADINGS = {
    "t": lambda w: w**2,
    "lam": lambda w: w,
    "angle": lambda w: w**2.25 / (w**2.25 + (1.0 - w) ** 1.25),
}


class Adams(NamedTuple):
    """`steps + 1` evaluations; `order` is k; the variable and sigma_data are those of `Frame`."""

    steps: int = 64
    order: int = 4
    variable: str = "angle"
    sigma_data: float = 0.5


class Advanced(NamedTuple):
    """The end state, the evaluations of the field, and the sum of the corrections,
    `sum |y_{i+1} - y*|` like y, which estimates the error of Adams-Bashforth alone."""

    y: Any
    nfe: int
    corrections: Any


def check_adams(solver: Adams) -> None:
    """Raises ValueError for numbers out of range."""
    if solver.steps < 1:
        raise ValueError(f"steps is {solver.steps}; take at least 1.")
    if not 1 <= solver.order <= MAX_ORDER:
        raise ValueError(f"order is {solver.order}; it must lie between 1 and {MAX_ORDER}.")
    one_of(VARIABLES, variable=solver.variable)
    positive(sigma_data=solver.sigma_data)


def lay_out(solver: Adams, frame: Frame) -> np.ndarray:
    """The nodes of a solver in a frame, `(steps + 1,)`, from data to noise.

    Raises:
        ValueError: for numbers out of range, or a frame not known when the program is built.
    """
    check_adams(solver)
    if isinstance(frame.start, jax.core.Tracer) or isinstance(frame.end, jax.core.Tracer):
        raise ValueError(
            "Fixed steps are laid out when the program is built, and the law or eps is not known "
            "then: close over them instead of passing them through jit, or take an adaptive solver."
        )
    w = GRADINGS[solver.variable](np.linspace(0.0, 1.0, solver.steps + 1))
    return float(frame.start) + (float(frame.end) - float(frame.start)) * w


def weights(us: np.ndarray, order: int) -> tuple[np.ndarray, np.ndarray]:
    """Weights of predictor `(N, k)` and corrector `(N, k + 1)`: the integrals of the Lagrange
    polynomials.

    Column j of the predictor belongs to f_{i-j}, and column j of the corrector to f_{i+1-j}. Values
    that do not exist yet have weight zero.
    """
    steps = len(us) - 1
    first, second = np.zeros((steps, order)), np.zeros((steps, order + 1))
    for i in range(steps):
        there = min(order, i + 1)
        known = us[i - there + 1 : i + 1][::-1]
        first[i, :there] = lagrange_integrals(known, us[i], us[i + 1])
        second[i, : there + 1] = lagrange_integrals(np.append(us[i + 1], known), us[i], us[i + 1])
    return first, second


def lagrange_integrals(points: np.ndarray, low: float, high: float) -> np.ndarray:
    """`int l_j du` from low to high, l_j the Lagrange polynomials on `points`; exact by Gauss."""
    u, w = gauss(MAX_ORDER // 2 + 1)
    at = low + (high - low) * u
    return (high - low) * w @ lagrange(at, points, np.ones(len(points), bool), np)


def advance(field: Callable[[Array, Any], Any], y: Any, us: np.ndarray, order: int) -> Advanced:
    """Solves `dy/du = field(u, y)` over the nodes us `(N + 1,)`; y is a pytree.

    The field may give its values in a wider dtype; y keeps its own.
    """
    add = lambda y, w, f: jax.tree.map(
        lambda a, b: (a + jnp.tensordot(w, b, 1)).astype(a.dtype), y, f
    )
    value = field(jnp.asarray(us[0], jnp.result_type(float)), y)
    past = jax.tree.map(lambda v: jnp.zeros((order, *v.shape), v.dtype).at[0].set(v), value)
    zero = jax.tree.map(jnp.zeros_like, y)

    # For a gradient, only the states between steps are kept, not the network's activations.
    @partial(jax.checkpoint, prevent_cse=False)
    def step(carry, inputs):
        (y, past, total), (u, predictor, corrector) = carry, inputs
        guess = add(y, predictor, past)
        value = field(u, guess)
        history = jax.tree.map(lambda v, p: jnp.concatenate([v[None], p]), value, past)
        after = add(y, corrector, history)
        total = jax.tree.map(lambda s, a, b: s + jnp.abs(a - b), total, after, guess)
        return (after, jax.tree.map(lambda h: h[:-1], history), total), None

    rows = jax.tree.map(
        lambda v: jnp.asarray(v, jnp.result_type(float)), (us[1:], *weights(us, order))
    )
    (y, _, total), _ = jax.lax.scan(step, (y, past, zero), rows)
    return Advanced(y, len(us), total)
