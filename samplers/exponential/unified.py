"""One sampler for every solver schedule (Liu et al. 2024, arXiv 2312.07243).

DDIM, DPM-Solver in single steps and multistep, Adams-Bashforth and UniPC are all rows of one table
(`tableau.py`). The loop below applies the rows and does not distinguish methods.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from samplers.base import SampleFn, SampleResult, State, finished
from samplers.exponential.tableau import Table, table_of
from samplers.schedules.schedule import Schedule, check, evaluations
from sde_lib import AffinePath, expand
from sde_lib.prediction import Cond, PredictFn, bound


def unified(
    path: AffinePath,
    schedule: Schedule,
    eps: float | None = None,
    denoise: bool | None = None,
    mean: Array | float = 0.0,
) -> SampleFn:
    """The sampler of a schedule.

    Args:
        eps: the time of the last node; by default the schedule's own last node. The first node is
            at `path.t1`; the others keep their `c / a`.
        denoise: end with the conditional mean at the last node; by default as in the schedule.
        mean: the mean of the data for an analytic first step, `(...)` or flat, or a number.

    Returns:
        `(key, predict, x, cond=None, *, collect=None) -> SampleResult`, the trace over all steps.

    Raises:
        ValueError: for a schedule that cannot be run on this law.
    """
    schedule = check(schedule)
    if denoise is not None:
        schedule = schedule._replace(denoise=bool(denoise))
    table, nfe = table_of(path, schedule, eps), evaluations(schedule)
    sizes = depths(table)

    def run(
        key: Array, predict: PredictFn, x: Array, cond: Cond = None, *, collect=None
    ) -> SampleResult:
        del key
        predict = bound(predict, cond)
        first = analytic_start(path, mean) if schedule.analytic else None
        out, trace = drive(predict, x, table, sizes, first, collect)
        if schedule.denoise:
            out = predict(out, jnp.asarray(table.ts[-1], time_dtype(x))).x0
        return finished(out, trace, jnp.asarray(nfe), ts=jnp.asarray(table.ts, time_dtype(x)))

    return run


def time_dtype(x: Array):
    return jnp.promote_types(x.dtype, jnp.float32)


def depths(table: Table) -> tuple[int, int, int]:
    """The numbers of past states, noises and data that the rows use; at least one state."""
    used = np.any((table.correct != 0.0) | (table.predict != 0.0), axis=0)
    deep = [int(np.max(np.nonzero(row)[0], initial=-1)) + 1 for row in used]
    return max(deep[0], 1), deep[1], deep[2]


def analytic_start(path: AffinePath, mean: Array | float) -> PredictFn:
    """The output at the first node if the predicted data are their mean: `x0 = mean`,
    `eps = (x - a mean) / c`. Exact for data at one point; otherwise the error of eps is O(a^2 / c).
    """

    def predict(x: Array, t: Array):
        a, c = path.coeffs(t)
        centre = jnp.asarray(mean, x.dtype)
        centre = centre.reshape(x.shape[1:]) if centre.ndim else centre
        x0 = jnp.broadcast_to(centre, x.shape)
        return x0, (x - expand(a, x) * x0) / expand(c, x)

    return predict


def drive(
    predict: PredictFn,
    x: Array,
    table: Table,
    sizes: tuple[int, int, int],
    first=None,
    collect=None,
) -> tuple[Array, Array]:
    """Run a table from x; returns `(x, trace)`.

    Args:
        x: the start, `(B, ...)`.
        table: NumPy arrays, or traced arrays. With traced arrays one compiled run serves all tables
            of that shape, and may be mapped over them.
        sizes: the numbers of past states, noises and data to keep (`depths`).
        first: `(x, t) -> (x0, eps)`, which replaces the first evaluation.
    """
    dtype = time_dtype(x)
    ts, correct, forward = (jnp.asarray(v, dtype) for v in table[:3])
    again, static = table.again, isinstance(table.again, np.ndarray)
    anew = bool(np.any(again)) if static else True

    def output(x, t):
        out = predict(x, t)
        return out.x0, out.eps

    def advance(state, inputs, output=output):
        (x, past), (t, fix, go, repeat) = state, inputs
        x0, eps = output(x, t)
        past = tuple(push(v, now) for v, now in zip(past, (x, eps, x0)))
        x = weighted(fix, past)
        past = (past[0].at[0].set(x), *past[1:])
        if anew:
            x0, eps = jax.lax.cond(repeat, output, lambda *_: (x0, eps), x, t)
            past = (past[0], *(v.at[:1].set(now[None]) for v, now in zip(past[1:], (eps, x0))))
        x = weighted(go, past)
        return (x, past), (collect(State(x)) if collect else None)

    state = x, tuple(jnp.zeros((size, *x.shape), x.dtype) for size in sizes)
    inputs = (ts[:-1], correct, forward, jnp.asarray(again))
    if first is None:
        state, trace = jax.lax.scan(advance, state, inputs)
        return state[0], trace
    state, begun = advance(state, tuple(v[0] for v in inputs), first)
    state, trace = jax.lax.scan(advance, state, tuple(v[1:] for v in inputs))
    join = lambda one, rest: jnp.concatenate([one[None], rest])
    return state[0], jax.tree.map(join, begun, trace)


def push(past: Array, now: Array) -> Array:
    """Put `now` in front and drop the oldest entry. A memory of size 0 stays empty."""
    return jnp.concatenate([now[None], past])[: past.shape[0]]


def weighted(row: Array, past: tuple[Array, ...]) -> Array:
    """The weighted sum of past states, noises and data, with the weights `(3, K)`.

    The products are computed one by one, because an accelerator would round a matrix product to
    half precision.
    """
    total = 0.0
    for weights, values in zip(row, past):
        for k in range(values.shape[0]):
            total = total + weights[k].astype(values.dtype) * values[k]
    return total
