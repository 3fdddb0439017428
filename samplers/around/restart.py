"""Restart sampling (Xu et al. 2023, arXiv 2306.14878, algorithm 1), for any sampler and affine law.

On the way down the grid, each interval of noise levels is run through again K times: noise is added
by the forward kernel, from the lower end to the upper, and the sampler comes down anew. The noise
makes the run forget the errors of the steps above; the steps stay those of an ODE, which are exact
sooner than those of an SDE.

In `y = x / a`, `sigma = c / a`, one restart adds the variance `sigma_high^2 - sigma_low^2`, which
is what the reverse SDE (eta = 1, see `exponential/integrals.py`) adds on its way through the
interval. So K restarts are of the strength eta = K there. On Gaussian data of variance S^2 that is
exact: with `V = S^2 + sigma^2` each restart leaves the correlation with the state before, and the
square of it of a relative error of the variance,

    corr = sqrt(V_low / V_high),    corr_eta = (V_low / V_high)^(eta / 2).
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from samplers.around.returns import by_noise, returning
from samplers.base import Sampler, SampleResult, finished
from samplers.grids import karras
from sde_lib import AffinePath
from sde_lib.prediction import Cond, PredictFn, bound

GridFn = Callable[[AffinePath, int, float], Array]

# Two noise levels nearer than this part of themselves are one, whatever their last digits.
SAME = 1e-5


class Restarts(NamedTuple):
    """Noise levels `low < high`, as `c / a` in the units of the data; how often to go back from
    low to high; and the steps of the sampler from high to low each time."""

    low: float
    high: float
    times: int = 1
    steps: int = 4


def restart(
    path: AffinePath,
    sampler: Sampler,
    ts: Array,
    intervals: Sequence[Restarts],
    denoise: bool = False,
    grid: GridFn = karras,
) -> Callable[..., SampleResult]:
    """A `SampleFn` with restarts on the way, which takes `collect` and `frames` as `sample` does.

    Args:
        sampler: of an ODE as a rule. What it remembers is forgotten where noise is added.
        ts: `(N + 1,)` falling times of the main run, known while tracing.
        intervals: each begins at the node of `ts` whose log sigma is nearest to that of its `low`;
            several at one node are run through in the order given.
        denoise: as in `sample`.
        grid: `(path, steps, eps) -> times` of each return, one of `GRIDS`; `karras` as published.

    Step i draws from `fold_in(key, i)`: without intervals this is `sample`. The evaluations are
    those of all steps, `N + sum_j times_j steps_j` times `sampler.nfe`; the `ts` of the result are
    the ends of all of them, which rise at each restart.

    Raises:
        ValueError: for one grid per example, and for an interval whose levels do not rise from the
            node it begins at, that reaches above t1, or whose counts are below one.
    """
    rows = plan(path, ts, intervals, grid)
    steps = tuple(jnp.asarray(rows.T))
    way = jnp.asarray(np.append(rows[0, 1], rows[:, 2]))

    def run(
        key: Array, predict: PredictFn, x: Array, cond: Cond = None, *, collect=None, frames=None
    ) -> SampleResult:
        predict = bound(predict, cond)
        state, trace = returning(key, predict, sampler, x, steps, by_noise(path), collect, frames)
        nfe = jnp.asarray(len(rows) * sampler.nfe + denoise)
        x = predict(state.x, ts[-1]).x0 if denoise else state.x
        return finished(x, trace, nfe, ts=way)

    return run


def plan(
    path: AffinePath, ts: Array, intervals: Sequence[Restarts], grid: GridFn = karras
) -> np.ndarray:
    """All steps in turn, `(n, 3)`: the time the state is at, and the times the step goes from and
    to. Noise is added between the first two, which are equal but at the head of a return."""
    if ts.ndim != 1:
        raise ValueError(f"ts has the shape {ts.shape}; restarts take one grid for all.")
    # Lengths must be numbers, under `jit` too.
    with jax.ensure_compile_time_eval():
        levels = np.asarray(path.sigma(ts))
        returns = [(nearest(levels, each.low), each) for each in intervals]
        ways = [(k, down(path, ts[k], levels[k], each, grid)) for k, each in returns]
        ts = np.asarray(ts)
    rows = []
    for k, t in enumerate(ts):
        if k > 0:
            rows.append((ts[k - 1], ts[k - 1], t))
        for (node, way), each in zip(ways, intervals):
            if node == k:
                first = (t, way[0], way[1])
                rows += [first, *zip(way[1:-1], way[1:-1], way[2:])] * each.times
    return np.asarray(rows, ts.dtype)


def nearest(levels: np.ndarray, low: float) -> int:
    """The index of the level nearest to `low` in its logarithm."""
    if not low > 0.0:
        raise ValueError(f"A restart begins at sigma = {low}; the level must be positive.")
    return int(np.argmin(np.abs(np.log(levels / low))))


def down(path: AffinePath, t: Array, level: float, each: Restarts, grid: GridFn) -> np.ndarray:
    """The times `(steps + 1,)` of a return from the level `each.high` to t, which is at `level`."""
    if each.times < 1 or each.steps < 1:
        raise ValueError(
            f"There are {each.times} restarts of {each.steps} steps; take at least one of each."
        )
    top = float(path.sigma(jnp.asarray(path.t1, t.dtype)))
    if not level * (1.0 + SAME) < each.high <= top * (1.0 + SAME):
        raise ValueError(
            f"A restart goes from sigma = {level:.4g}, the node nearest to {each.low:.4g}, up to "
            f"{each.high:.4g}; its end must lie above that and at most at {top:.4g}, the level of "
            "t1."
        )
    high = jnp.minimum(path.t_of_sigma(jnp.asarray(each.high, t.dtype)), path.t1)
    return np.asarray(grid(dataclasses.replace(path, t1=high), each.steps, t))
