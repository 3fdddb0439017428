"""Levenberg-Marquardt-Langevin sampling (LML, ICCV 2025, arXiv 2505.24222), around any solver.

The paper replaces the Hessian of -log p_t by `u u^T + damping I` and takes the direction of the
step from `(u u^T + damping I)^{-1} v`. Here v is the vector that the solver adds to the scaled x, p
is the v of the step before, and

    u = kappa p + (1 - kappa) v,    w = v - u (u^T v) / (damping + u^T u),    v' = w |v| / |w|.

With `p_perp` the part of p orthogonal to v, w is parallel to

    v - eta p_perp,    eta = kappa m |v|^2 / (damping + kappa^2 |p_perp|^2),
                       m = 1 - kappa + kappa v^T p / |v|^2,

without approximation. The rule thus turns v away from p, by the angle `atan(eta |p_perp| / |v|)`,
and kappa = 0 changes nothing. The rule as written subtracts two nearly equal vectors: in float32
and for `|v|^2 / damping` of 1e6 the result is mostly rounding. eta has no unit and does not depend
on the resolution; kappa and damping do.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array

from samplers.base import Sampler, State
from samplers.exponential.integrals import interval
from sde_lib import AffinePath, check_data_left, expand, total

PLACEMENTS = ("direction", "noise", "data", "velocity")
TurnFn = Callable[[Array, Array], Array]


class Memory(NamedTuple):
    """The solver's own memory, and v of the step before `(B, ...)`, zero at the first step."""

    base: Any
    before: Array


def lml(
    path: AffinePath,
    base: Sampler,
    eta: float = 0.1,
    placement: str = "noise",
    freeze: float = 0.0,
    turn: TurnFn | None = None,
) -> Sampler:
    """`base`, with the vector v of each step turned away from that of the step before.

    Args:
        base: a solver of the flow ODE. If base adds noise, the noise is turned too, except with
            the placement "direction".
        eta: the strength; 0 is the base. Above one the previous direction outweighs the present.
        placement: the definition of v, one of

            direction   eps, in the term `c_s eps` of DDIM, noise or not; x0 stays
            noise       `x_s - (a_s / a_t) x_t`, the increment of DPM-Solver
            data        `x_s - (c_s / c_t) x_t`, that of DPM-Solver++
            velocity    `(x_s - x_t) / (s - t)`, the output of a flow-matching network under Euler

        freeze: do not turn steps that start at `t >= t1 (1 - freeze)`; their v is remembered.
        turn: `(v, p) -> v'` in place of `turned` with this eta, such as `damped` or `literal` with
            their kappa and damping.

    The number of evaluations is that of the base. In one dimension nothing turns. v and p differ by
    O(h). A whole increment is itself O(h), so turning it adds an error of order 1 for any order of
    the base. The term `c_s eps` is not O(h). "direction" therefore does not converge to the flow,
    but, in `y = x / a` over `xi = c / a`, to `dy = eps dxi + eta xi (d eps)_perp`.

    Raises:
        ValueError: for an unknown placement, a negative eta, a freeze outside [0, 1), or
            "direction" around a solver of several evaluations a step.
    """
    check(base, eta, placement, freeze)
    if placement in ("noise", "data"):
        check_data_left(path, f"the increment of the placement {placement!r}")
    rule = partial(turned, eta=eta) if turn is None else turn

    def change(v: Array, before: Array, t: Array, s: Array) -> Array:
        acts = t != s
        if freeze > 0.0:
            acts = acts & (t < path.t1 * (1.0 - freeze))
        return jnp.where(expand(acts, v), rule(v, before), v)

    def init(x: Array, t: Array) -> State:
        return State(x, Memory(base.init(x, t).memory, jnp.zeros_like(x)))

    def step(key, predict, state, span):
        t, s = span.t, span.s
        t, s = jnp.asarray(t), jnp.asarray(s)
        memory = state.memory
        inner = State(state.x, memory.base)
        if placement == "direction":
            prediction = predict(state.x, t)
            v = prediction.eps
            changed = prediction._replace(eps=change(v, memory.before, t, s))
            x, remembered = base.step(key, lambda x, t: changed, inner, span)
        else:
            x, remembered = base.step(key, predict, inner, span)
            ratio, unit = (expand(part, x) for part in frame(path, placement, t, s))
            v = (x - ratio * state.x) / unit
            # Adding the difference keeps the base's step to the last bit if nothing turns.
            x = x + unit * (change(v, memory.before, t, s) - v)
        # Grids are padded with steps of length zero, which must change nothing.
        before = jnp.where(expand(t == s, v), memory.before, v)
        return State(x, Memory(remembered, before))

    return Sampler(init, step, base.nfe, base.enter)


def check(base: Sampler, eta: float, placement: str, freeze: float) -> None:
    if placement not in PLACEMENTS:
        raise ValueError(f"placement is {placement!r}; it must be one of {', '.join(PLACEMENTS)}.")
    if not eta >= 0.0:
        raise ValueError(f"eta is {eta}; the strength of the turn must not be negative.")
    if not 0.0 <= freeze < 1.0:
        raise ValueError(f"freeze is {freeze}; the part of the time left alone must lie in [0, 1).")
    if placement == "direction" and base.nfe != 1:
        raise ValueError(
            f"placement is 'direction' and the solver makes {base.nfe} evaluations a step; take a "
            "solver of one, such as ddim, or the placement 'noise'."
        )


def frame(path: AffinePath, placement: str, t: Array, s: Array) -> tuple[Array, Array]:
    """`(ratio, unit)` of `v = (x_s - ratio x_t) / unit`, each of the shape of t."""
    if placement == "velocity":
        return jnp.ones_like(s - t), jnp.where(s == t, 1.0, s - t)
    ratio = interval(path, t, s, placement).ratio
    return ratio, jnp.ones_like(ratio)


def dot(u: Array, v: Array) -> Array:
    """The inner product of each example, `(B, 1, ...)`."""
    return expand(total(u * v), u)


def across(v: Array, p: Array) -> tuple[Array, Array]:
    """The part of p orthogonal to v `(B, ...)`, and `|v|^2` `(B, 1, ...)`, with 1 in place of 0."""
    size = dot(v, v)
    size = jnp.where(size > 0.0, size, 1.0)
    return p - v * (dot(v, p) / size), size


def turned(v: Array, p: Array, eta: float | Array) -> Array:
    """`v - eta p_perp` at the length of v. Shapes `(B, ...)`; eta a number or `(B,)`."""
    p_perp, size = across(v, p)
    eta = expand(jnp.asarray(eta, v.dtype), v)
    stretch = jnp.sqrt(1.0 + eta**2 * (dot(p_perp, p_perp) / size))
    return jnp.where(dot(v, v) > 0.0, (v - eta * p_perp) / stretch, v)


def damped(v: Array, p: Array, kappa: float, damping: float) -> Array:
    """The published rule in its closed form, which is accurate in float32 for every kappa."""
    p_perp, size = across(v, p)
    m = 1.0 - kappa + kappa * dot(v, p) / size
    eta = kappa * m * size / (damping + kappa**2 * dot(p_perp, p_perp))
    return turned(v, p, eta.reshape(len(v)))


def literal(v: Array, p: Array, kappa: float, damping: float) -> Array:
    """The published rule as written, for comparison. In float32 its result is mostly rounding.

    On the first step p is zero here and p = v in the released code; u is parallel to v in both.
    """
    w = solve_rank_one((kappa * p + (1.0 - kappa) * v), v, damping)
    return w * jnp.sqrt(dot(v, v) / dot(w, w))


def solve_rank_one(u: Array, v: Array, damping: float) -> Array:
    """`(damping I + u u^T)^{-1} v` of each example (Sherman and Morrison 1950)."""
    return (v - u * (dot(u, v) / (damping + dot(u, u)))) / damping
