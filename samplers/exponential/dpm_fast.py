"""DPM-Solver-fast: single steps of orders 3, 2 and 1 that use exactly a given number of evaluations
(Lu et al. 2022, DPM-Solver, section 3.4)."""

import itertools

import jax
import jax.numpy as jnp
from jax import Array

from samplers.base import SampleFn, SampleResult, finished, sample
from samplers.exponential.dpm_solver import dpm_solver
from samplers.grids import make_grid
from sde_lib import AffinePath
from sde_lib.prediction import Cond, PredictFn, bound


def dpm_fast(
    path: AffinePath,
    nfe: int,
    eps: float,
    form: str = "data",
    grid: str = "uniform_lam",
    denoise: bool = False,
) -> SampleFn:
    """Sample from t1 to eps with `nfe` evaluations, or `nfe + 1` with `denoise`.

    `uniform_lam` divides the path into as many parts as there are steps. Any other grid is made for
    `nfe` steps of order 1, and a step of order k spans k of those.

    Returns:
        `(key, predict, x, cond=None, *, collect=None) -> SampleResult`, the trace over all steps.

    Raises:
        ValueError: for a form or grid that does not exist, or fewer than one evaluation.
    """
    if nfe < 1:
        raise ValueError(f"The budget is {nfe} evaluations; DPM-Solver-fast needs at least 1.")
    orders = step_orders(nfe)
    if grid == "uniform_lam":
        ts = make_grid(grid, path, len(orders), eps)
    else:
        ends = [0, *itertools.accumulate(orders)]
        ts = make_grid(grid, path, nfe, eps)[jnp.asarray(ends)]
    runs = [(order, len(list(run))) for order, run in itertools.groupby(orders)]
    solvers = {order: dpm_solver(path, order, form) for order, _ in runs}

    def run(
        key: Array, predict: PredictFn, x: Array, cond: Cond = None, *, collect=None
    ) -> SampleResult:
        predict = bound(predict, cond)
        first, traces, used = 0, [], 0
        for order, steps in runs:
            piece = ts[first : first + steps + 1]
            result = sample(key, predict, solvers[order], x, piece, collect)
            x, first, used = result.x, first + steps, used + result.nfe
            traces.append(result.trace)
        trace = jax.tree.map(lambda *parts: jnp.concatenate(parts), *traces)
        if denoise:
            return finished(predict(x, ts[-1]).x0, trace, used + 1)
        return finished(x, trace, used)

    return run


def step_orders(nfe: int) -> list[int]:
    """The orders of the steps, which add up to `nfe`.

    The run ends with steps of order 2 or 1, where the error of a step is least, and all steps
    before are of order 3. The end is (2, 1), (1) or (2) for a remainder of nfe / 3 of 0, 1 or 2.
    """
    threes, rest = divmod(nfe, 3)
    if rest == 0:
        return [3] * (threes - 1) + [2, 1]
    return [3] * threes + [rest]
