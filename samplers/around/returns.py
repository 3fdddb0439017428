"""Runs that go back in noise level: the scan behind restarts, RePaint and time travel.

Such a run is a list of rows `(origin, t, s)`. `origin` is the time of the state; the next step goes
from t to s. If t is above the origin, the state is first moved back to t, by noise (`by_noise`) or
another rule, and the memory of the method is cleared.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from samplers.base import Sampler, Span, State, begin, walk
from sde_lib import AffinePath, expand, fold_in
from sde_lib.prediction import PredictFn

# `(key, x, origin, t) -> x` at t > origin.
BackFn = Callable[[Array, Array, Array, Array], Array]


def returning(
    key: Array,
    predict: PredictFn,
    sampler: Sampler,
    x: Array,
    rows: tuple[Array, Array, Array],
    back: BackFn,
    collect: Callable[[State], Any] | None = None,
    frames: int | None = None,
) -> tuple[State, Any]:
    """Run a sampler over n rows: the last state and the collected outputs, as in `walk`.

    Step i of n draws from `fold_in(key, i)`, as in `sample`. A move back before step i draws from
    `fold_in(key, n + i)`. A run without such moves therefore equals `sample`.

    Args:
        x: a draw of the prior at the first t, `(B, ...)`.
        rows: `(origin, t, s)`, each `(n,)`, or `(n, B)` for one grid per example; all examples go
            back in the same rows.
        back: the rule that moves the state from origin back to t.
        collect, frames: as in `sample`.
    """
    n = len(rows[0])

    def returned(state: State, i: Array, origin: Array, t: Array) -> State:
        return sampler.init(back(fold_in(key, n + i), state.x, origin, t), t)

    def step(state: State, row) -> State:
        i, origin, t, s = row
        goes_back = jnp.any(t > origin)
        # The step is outside of the `cond`, so that the network is compiled only once.
        state = jax.lax.cond(goes_back, returned, lambda state, *_: state, state, i, origin, t)
        return sampler.step(fold_in(key, i), predict, state, Span(t, s, i, n))

    return walk(step, begin(sampler, x, rows[1][0]), (jnp.arange(n), *rows), collect, frames)


def rows_of(ts: Array, index: np.ndarray) -> tuple[Array, Array, Array]:
    """Rows of steps from node k to node k + 1 of a grid, for each k of `index` `(n,)`, which begins
    at 0. The origin of a row is the end of the step before."""
    at = np.append(0, index[:-1] + 1)
    return tuple(jnp.asarray(ts)[k] for k in (at, index, index + 1))


def by_noise(path: AffinePath) -> BackFn:
    """A draw of x_t given x at the origin, by the forward kernel of the law."""

    def back(key: Array, x: Array, origin: Array, t: Array) -> Array:
        r, q = path.forward_step(origin, t)
        return expand(r, x) * x + expand(q, x) * path.noise(key, x)

    return back
