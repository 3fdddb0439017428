"""A deterministic method in fixed steps as a table of numbers.

Every explicit method for the flow ODE, in multiple or single steps, with or without a corrector,
evaluates the network at sums of the start and of earlier outputs:

    x_k = r_k x_T + sum_{j < k} (d_kj x0_j + e_kj eps_j),    (x0_k, eps_k) = network(x_k, t_k)

(a non-stationary solver, Shaul et al. 2024, arXiv 2403.01329). `coefficients` reads these numbers
off the method itself: it runs the method on unit vectors in place of states. `apply` then runs any
number of methods by one compiled program, since the numbers are its arguments.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from samplers.base import Sampler, Span, State, begin
from sde_lib import AffinePath, expand
from sde_lib.prediction import Cond, PredictFn, Prediction, bound


class Coefficients(NamedTuple):
    """E evaluations: their times `ts` `(E,)`, and `rows` `(E + 1, 1 + 2 E)`, the states there and
    at the end. A row holds the weights of x_T, of the E data and of the E noises, in this order."""

    ts: np.ndarray
    rows: np.ndarray


def coefficients(
    path: AffinePath, sampler: Sampler, runs: Sequence[tuple[np.ndarray, bool]]
) -> list[Coefficients]:
    """The tables of a method on several grids, with an axis G in front, in float64.

    Args:
        sampler: a method that draws nothing and is linear in the state and in the outputs.
        runs: pairs of grids, `(G, N + 1)` falling times, and whether their runs end with the
            conditional mean of the data, by one more evaluation. Pairs of as many grids and as many
            evaluations share one compiled step.
    """
    with jax.enable_x64(True), jax.default_device(jax.local_devices(backend="cpu")[0]):
        step = _make_step(path, sampler)
        return [_tables(sampler, step, np.asarray(ts, np.float64), last) for ts, last in runs]


def _make_step(path: AffinePath, sampler: Sampler) -> Callable:
    """One step from states that are rows of weights, one for each grid; besides the new state, the
    states `(G, nfe, W)` and the times `(G, nfe)` at which it evaluates."""

    def one(state: State, t: Array, s: Array, i: Array, n: Array):
        width, seen = state.x.shape[-1], []
        units = jnp.eye(width)[:, None]

        def predict(x: Array, t: Array, cond: Cond = None) -> Prediction:
            del cond
            k = i * sampler.nfe + len(seen)
            seen.append((x[0], jnp.asarray(t, float)))
            return pair(path, units[1 + k], units[1 + width // 2 + k], t)

        state = sampler.step(jax.random.key(0), predict, state, Span(t, s, i, n))
        return state, *map(jnp.stack, zip(*seen))

    over_grids = jax.vmap(one, in_axes=(0, 0, 0, None, None))
    # The program is small and runs a few times only, so time spent on its speed would be lost.
    return jax.jit(over_grids, compiler_options={"xla_backend_optimization_level": 0})


def _tables(sampler: Sampler, step: Callable, grids: np.ndarray, denoise: bool) -> Coefficients:
    count, n = grids.shape[0], grids.shape[1] - 1
    evaluations = n * sampler.nfe + denoise
    units = np.eye(1 + 2 * evaluations)
    start = jnp.broadcast_to(units[0], (count, 1, len(units)))
    state = jax.vmap(lambda x, t: begin(sampler, x, t))(start, grids[:, 0])
    rows, ts = [], []
    for i in range(n):
        state, states, times = step(state, grids[:, i], grids[:, i + 1], i, n)
        rows.append(states)
        ts.append(times)
    rows.append(state.x)
    if denoise:
        ts.append(grids[:, -1:])
        rows.append(np.broadcast_to(units[evaluations], (count, 1, len(units))))
    return Coefficients(*(np.concatenate(parts, axis=1) for parts in (ts, rows)))


def pair(path: AffinePath, x0: Array, eps: Array, t: Array) -> Prediction:
    """The prediction of a pair that need not agree with any state."""
    (_, c), (da, dc) = jax.jvp(path.coeffs, (t,), (jnp.ones_like(t),))
    velocity = expand(da, x0) * x0 + expand(dc, eps) * eps
    return Prediction(x0=x0, eps=eps, score=-eps / expand(c, eps), velocity=velocity)


def apply(predict: PredictFn, x: Array, table: Coefficients, cond: Any = None) -> Array:
    """The ends of runs from x `(B, ...)`, each by a table of its own: `ts` `(B, E)` and `rows`
    `(B, E + 1, 1 + 2 E)`."""
    ts, rows = (jnp.asarray(v, x.dtype) for v in table)
    evaluations, predict = ts.shape[1], bound(predict, cond)
    seen = jnp.zeros((1 + 2 * evaluations, *x.shape), x.dtype).at[0].set(x)

    def state(row: Array, seen: Array) -> Array:
        # Products and a sum: as a matrix product an accelerator would round them.
        weights = row.T.reshape(*row.T.shape, *(1,) * (x.ndim - 1))
        return jnp.sum(weights * seen, axis=0)

    def evaluate(seen: Array, inputs):
        k, t, row = inputs
        out = predict(state(row, seen), t)
        seen = seen.at[1 + k].set(out.x0)
        return seen.at[1 + evaluations + k].set(out.eps), None

    inputs = (jnp.arange(evaluations), ts.T, jnp.swapaxes(rows, 0, 1)[:-1])
    seen, _ = jax.lax.scan(evaluate, seen, inputs)
    return state(rows[:, -1], seen)
