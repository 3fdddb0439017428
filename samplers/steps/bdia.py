"""BDIA: two-step integration that runs backwards exactly (Zhang, Lewis, Kleijn 2023, ECCV 2024,
arXiv 2307.10829).

With `Phi_{i->j}` the map of a one-step solver and w = gamma,

    z_{i-1} = Phi_{i->i-1}(z_i) + w (z_{i+1} - Phi_{i->i+1}(z_i))

With g = gamma and the increments `D(i->j) = Phi_{i->j}(z_i) - z_i` this is the paper's
`z_{i+1} - (1 - g)(z_{i+1} - z_i) - g D(i->i+1) + D(i->i-1)`. The network is evaluated at `z_i`
only, so the formula can be solved for `z_{i+1}` as well, and a run passes through the same pairs of
states in both directions.

gamma = 0 is the solver itself. With DDIM the error is `(1 - g) / (1 + g)` of DDIM's, and gamma = 1,
a midpoint rule, is of order 2. Going up multiplies round-off by up to `gamma^-N`, so a round trip
is exact for gamma near 1 only.

The formula may be written in any multiple of the state, `x / m(t)`. Then `w = gamma m_s / m_u`,
with u the time of `z_{i+1}` and s that of `z_{i-1}`. `FRAMES` are the choices of m.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from samplers.base import Sampler, SampleResult, Span, State, sample
from sde_lib import AffinePath, expand
from sde_lib.prediction import PredictFn

FRAMES = {
    "x": lambda a, c: jnp.ones_like(a),
    "y": lambda a, c: a,
    "unit": lambda a, c: jnp.sqrt(a**2 + c**2),
}


class Previous(NamedTuple):
    """The state one node up, `z_{i+1}` `(B, ...)`, and its time, `()` or `(B,)`."""

    x: Array
    t: Array


class OneStep(NamedTuple):
    """A one-step solver: `at(predict, x, t) -> (down, up)`, both maps from a time to a state.

    `down(s)` is `Phi_{t->s}(x)`, and `up(u)` is `Phi_{t->u}(x)`. `up` must need no evaluation
    beyond the one at `(x, t)`. `nfe` counts the evaluation at `(x, t)` and those of `down`.
    """

    at: Callable[[PredictFn, Array, Array], tuple[Callable, Callable]]
    nfe: int


def ddim_step(path: AffinePath) -> OneStep:
    """`Phi_{t->s}(x) = a_s x0 + c_s eps`."""

    def at(predict: PredictFn, x: Array, t: Array):
        prediction = predict(x, t)

        def to(s: Array) -> Array:
            a, c = path.coeffs(s)
            return expand(a, x) * prediction.x0 + expand(c, x) * prediction.eps

        return to, to

    return OneStep(at, nfe=1)


def data_step(path: AffinePath) -> OneStep:
    """DPM-Solver++ of order 1, from x0 alone: `(c_s / c_t) x + (a_s - a_t c_s / c_t) x0`.

    Equal to `ddim_step` if `x = a x0 + c eps`. `Phi_{t->t}` is the identity for every x0.
    """

    def at(predict: PredictFn, x: Array, t: Array):
        x0 = predict(x, t).x0
        a_t, c_t = path.coeffs(t)

        def to(s: Array) -> Array:
            a_s, c_s = path.coeffs(s)
            ratio = c_s / c_t
            return expand(ratio, x) * x + expand(a_s - a_t * ratio, x) * x0

        return to, to

    return OneStep(at, nfe=1)


def heun_step(path: AffinePath) -> OneStep:
    """Heun's increment down, and Euler's `(u - t) v(x, t)` up, which needs no new evaluation.

    The error of Euler's method remains, times `g / (1 + g)`: for gamma > 0 the method has order 1.
    """
    del path  # the velocity is the prediction's own

    def at(predict: PredictFn, x: Array, t: Array):
        v = predict(x, t).velocity

        def up(u: Array) -> Array:
            return x + expand(u - t, x) * v

        def down(s: Array) -> Array:
            return x + 0.5 * expand(s - t, x) * (v + predict(up(s), s).velocity)

        return down, up

    return OneStep(at, nfe=2)


def bdia(
    path: AffinePath,
    gamma: float | np.ndarray = 1.0,
    solver: Callable[[AffinePath], OneStep] = ddim_step,
    frame: str = "x",
) -> Sampler:
    """BDIA as a sampler; the first step is the solver's own.

    Args:
        gamma: in [0, 1], a number or one per example, `(B,)`.
        solver: the one-step solver that is made reversible, `ddim_step` by default.
        frame: a name in `FRAMES`: "x", "y" for `x / a`, or "unit" for `x / sqrt(a^2 + c^2)`. In
            "y" and in "unit" the computation is the same for every law. "x" equals "unit" for VP
            and "y" for laws with a = 1. If states grow to many times the size of the data, only
            "unit" keeps the digits of the data.

    Raises:
        ValueError: for a gamma outside [0, 1], and an unknown frame.
    """
    check(gamma, frame)
    one = solver(path)

    def init(x: Array, t: Array) -> State:
        return State(x, Previous(x, t))

    def step(key: Array, predict: PredictFn, state: State, span: Span) -> State:
        t, s = span.t, span.s
        del key
        x, (above, u) = state
        down, up = one.at(predict, x, t)
        # The first step has no state above (u = t), and a step of length zero must not move x.
        kept = jnp.where(expand((u == t) | (s == t), x), 0.0, above - up(u))
        return State(down(s) + weight(path, gamma, frame, x, s, u) * kept, Previous(x, t))

    return Sampler(init, step, one.nfe)


class Inversion(NamedTuple):
    """`pair`: x at `ts[1]` with x at `ts[0]` in its memory; `nfe`: the evaluations made."""

    pair: State
    nfe: Array


def invert(
    path: AffinePath,
    predict: PredictFn,
    x: Array,
    ts: Array,
    gamma: float | np.ndarray = 1.0,
    solver: Callable[[AffinePath], OneStep] = ddim_step,
    frame: str = "x",
    above: Array | None = None,
) -> Inversion:
    """Run BDIA up the grid, from data x at `ts[-1]` to noise:
    `z_{i+1} = Phi_{i->i+1}(z_i) + (z_{i-1} - Phi_{i->i-1}(z_i)) / w`.

    Args:
        x: the data, `(B, ...)`.
        ts: the falling grid of the sampler, `(N + 1,)` or `(N + 1, B)`, N >= 1.
        gamma, solver, frame: as in `bdia`; gamma in (0, 1].
        above: the state at `ts[-2]`, known after a run of the sampler. By default the solver maps
            x up to `ts[-2]`. `decode` returns to x in both cases, but by default the pair is not
            the one that a run from `z_N` would pass through.

    Raises:
        ValueError: for an unknown frame, or a gamma outside (0, 1]; with gamma = 0, `z_{i-1}`
            would not depend on `z_{i+1}`.
    """
    check(gamma, frame, inverting=True)
    one = solver(path)
    bootstrap = above is None
    if bootstrap:
        above = one.at(predict, x, ts[-1])[1](ts[-2])

    def body(pair: tuple[Array, Array], times):
        below, x = pair
        s, t, u = times
        down, up = one.at(predict, x, t)
        w = weight(path, gamma, frame, x, s, u)
        return (x, up(u) + (below - down(s)) / w), None

    rising = ts[::-1]
    (below, top), _ = jax.lax.scan(body, (x, above), (rising[:-2], rising[1:-1], rising[2:]))
    nfe = (ts.shape[0] - 2) * one.nfe + bootstrap
    return Inversion(State(below, Previous(top, ts[0])), jnp.asarray(nfe))


def decode(predict: PredictFn, sampler: Sampler, pair: State, ts: Array) -> SampleResult:
    """Run `bdia`'s recursion down from a pair of `invert`, on the same grid.

    With the `predict` of the inversion the result is the inverted x; with another one it is an
    edit of x. The run has N - 1 steps, since the two states of the pair span the first of the N.
    """
    resumed = sampler._replace(init=lambda x, t: State(x, pair.memory))
    return sample(jax.random.key(0), predict, resumed, pair.x, ts[1:])  # no noise is drawn


def weight(path: AffinePath, gamma, frame: str, x: Array, s: Array, u: Array) -> Array:
    """`gamma m_s / m_u`, the weight of `z_{i+1}` at u in `z_{i-1}` at s, broadcasting to x."""
    (a_s, c_s), (a_u, c_u) = path.coeffs(s), path.coeffs(u)
    ratio = FRAMES[frame](a_s, c_s) / FRAMES[frame](a_u, c_u)
    return expand(jnp.asarray(gamma, x.dtype) * ratio, x)


def check(gamma: float | np.ndarray, frame: str, inverting: bool = False) -> None:
    """Check that the frame is known and gamma in [0, 1], or in (0, 1] for an inversion."""
    if frame not in FRAMES:
        raise ValueError(f"frame is {frame!r}; take one of {', '.join(map(repr, FRAMES))}.")
    values = np.asarray(gamma)
    if not np.all((values >= 0.0) & (values <= 1.0)):
        raise ValueError(
            f"gamma is {gamma}; BDIA weighs the state before last by a number from 0 (the solver "
            "itself) to 1 (midpoint rule)."
        )
    if inverting and not np.all(values > 0.0):
        raise ValueError(
            f"gamma is {gamma}; an inversion divides by it: take one above 0, near 1 best."
        )
