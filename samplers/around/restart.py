"""Restart sampling (Xu et al. 2023, arXiv 2306.14878, algorithm 1), for any sampler and affine law.

On the way down the grid, each interval of noise levels is repeated K times: the forward kernel adds
noise from the lower end to the upper end, and the sampler runs down again. The noise makes the run
forget the errors of earlier steps. The steps remain those of an ODE, which need fewer steps than
those of an SDE to be accurate.

In `y = x / a`, `sigma = c / a`, one restart adds the variance `sigma_high^2 - sigma_low^2`. The
reverse SDE (eta = 1, see `exponential/integrals.py`) adds the same variance over the interval, so K
restarts correspond to eta = K there. On Gaussian data of variance S^2 this is exact. With
`V = S^2 + sigma^2`, a restart leaves the following correlation corr with the state before, and
multiplies a relative error of the variance by corr^2:

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

# Two noise levels whose relative difference is below this count as equal.
SAME = 1e-5


class Restarts(NamedTuple):
    """The restarts of one interval: noise levels `low < high`, as `c / a` in the units of the data;
    the number of `times` to go back from low to high; and the sampler's `steps` from high to low
    each time."""

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
        sampler: usually a solver of the flow ODE. Its memory is cleared when noise is added.
        ts: `(N + 1,)` falling times of the main run, known while tracing.
        intervals: each begins at the node of `ts` whose log sigma is nearest to that of its `low`;
            several intervals at one node run in the given order.
        denoise: as in `sample`.
        grid: `(path, steps, eps) -> times` of each way down again, one of `GRIDS`; `karras` as
            published.

    Step i draws from `fold_in(key, i)`, so a run without intervals equals `sample`. The NFE are
    `(N + sum_j times_j steps_j) sampler.nfe`, plus one with `denoise`. The `ts` of the result are
    the end times of all steps; they rise at each restart.

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
    """The rows `(n, 3)` of all steps in order: the time of the state, and the times from which and
    to which the step goes. The first two differ only at a restart, where noise is added between
    them."""
    if ts.ndim != 1:
        raise ValueError(f"ts has the shape {ts.shape}; restarts take one grid for all.")
    # The number of rows must be concrete, under `jit` too.
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
