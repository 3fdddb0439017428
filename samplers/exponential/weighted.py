"""A multistep method whose weights are given step by step, as a search on one network finds them.

With the outputs x0_j of all evaluations so far, step i goes from t to s by

    x_s = k_i (c_s / c_t) x_t + (a_s - a_t c_s / c_t) sum_{j <= i} w_ij x0_j.

With k_i = 1 and weights of one output alone, `w_ii = 1`, this is DDIM; with weights that add up to
one it is the step of DDIM towards a weighted mean of the outputs. Every explicit multistep method
for the flow ODE has this form (the non-stationary solvers of Shaul et al. 2024, arXiv 2403.01329,
section 3.1). `search/weights.py` reads the weights off such a method on a grid, and fits them to a
network.
"""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jax import Array

from samplers.base import Sampler, State
from samplers.steps.ddim import ddim
from sde_lib import AffinePath, expand


def weighted(path: AffinePath, weights: Sequence[Sequence[float]] = ()) -> Sampler:
    """The method of the weights; without weights it is DDIM.

    Args:
        weights: one row for each step. Row i has the i + 2 numbers k_i, w_i0, ..., w_ii. The rows
            belong to the grid for which they were found, and that grid has as many steps as there
            are rows; a run of fewer steps takes the first rows.

    Raises:
        ValueError: for a row of another length or with a number that is not finite; when a run
            begins, for more steps than rows.
    """
    return by_rows(path, triangle(weights)) if len(weights) else ddim(path)


def triangle(weights: Sequence[Sequence[float]]) -> np.ndarray:
    """The rows as one array `(N, N + 1)`, filled up with zeros.

    Raises:
        ValueError: see `weighted`.
    """
    table = np.zeros((len(weights), len(weights) + 1))
    for i, row in enumerate(weights):
        row = np.asarray(row, np.float64)
        if row.shape != (i + 2,) or not np.all(np.isfinite(row)):
            raise ValueError(
                f"weights has in row {i} the numbers {row.tolist()}; the row must have {i + 2} "
                "finite numbers: a factor of the state, and a weight for each output so far."
            )
        table[i, : i + 2] = row
    return table


def by_rows(path: AffinePath, table: Array) -> Sampler:
    """The method of an array of rows `(N, N + 1)`, which may be traced, as in a fit."""

    def init(x: Array, t: Array) -> State:
        del t
        return State(x, jnp.zeros((len(table), *x.shape), x.dtype))

    def step(key, predict, state, span):
        del key
        check_steps(span.n, len(table))
        x, outputs = state.x, state.memory.at[span.i].set(predict(state.x, span.t).x0)
        (a_t, c_t), (a_s, c_s) = path.coeffs(span.t), path.coeffs(span.s)
        row = jnp.asarray(table, x.dtype)[span.i]
        # Products and a sum: as a matrix product an accelerator would round them.
        mean = jnp.sum(row[1:].reshape(-1, *(1,) * x.ndim) * outputs, axis=0)
        kept = c_s / c_t
        return State(row[0] * expand(kept, x) * x + expand(a_s - kept * a_t, x) * mean, outputs)

    return Sampler(init, step, nfe=1)


def check_steps(n: int, rows: int) -> None:
    if n > rows:
        raise ValueError(
            f"weights has {rows} rows and the grid has {n} steps; take at most {rows} steps."
        )
