"""Time travel: steps are undone by noise and repeated (Lugmayr et al. 2022, RePaint,
arXiv 2201.09865, section 4.2 and algorithm 1).

A block of `jump` steps from t to s is run, `x_s` is noised back to t by the law's own kernel,

    x_t = r x_s + q z,      r = a(t) / a(s),      q^2 = c(t)^2 - r^2 c(s)^2

and the block is run again, `repeats` times in all. For given known coordinates at t, one repeat is
a step of a Markov chain whose stationary law is the joint law, so the known and the unknown
coordinates come to agree. Without known coordinates or guidance, repeats only add cost.
"""

import jax.numpy as jnp
import numpy as np
from jax import Array

from restoration.base import Problem, Restorer, check_exact
from restoration.impute import filled, impute
from samplers import Sampler
from samplers.around.returns import by_noise, returning, rows_of
from samplers.base import SampleResult, finished
from sde_lib import AffinePath
from sde_lib.prediction import PredictFn


def repaint(
    key: Array,
    path: AffinePath,
    predict: PredictFn,
    sampler: Sampler,
    x: Array,
    ts: Array,
    *,
    jump: int = 1,
    repeats: int = 10,
    denoise: bool = False,
) -> SampleResult:
    """`samplers.sample` in blocks of `jump` steps, each of which is run `repeats` times.

    The memory of a method is cleared wherever noise is added. Arguments are as in `sample`, and
    `repeats=1` equals `sample`. The run has `repeats * (len(ts) - 1)` steps in all.

    Raises:
        ValueError: for a jump that does not divide the number of steps, or no repeats.
    """
    steps = len(ts) - 1
    check_blocks(steps, jump, repeats)
    blocks = np.arange(steps).reshape(-1, jump)
    rows = rows_of(ts, np.repeat(blocks, repeats, axis=0).ravel())
    x = returning(key, predict, sampler, x, rows, by_noise(path))[0].x
    nfe = repeats * steps * sampler.nfe
    if denoise:
        return finished(predict(x, ts[-1]).x0, None, jnp.asarray(nfe + 1), ts=ts)
    return finished(x, None, jnp.asarray(nfe), ts=ts)


def by_repainting(problem: Problem, jump: int = 1, repeats: int = 10) -> Restorer:
    """Imputation whose blocks of steps are undone by noise and repeated.

    Args:
        jump: steps of a block, which must divide the number of steps.
        repeats: how often each block is run.
    """
    check_exact(problem)
    path, operator, ts = problem.path, problem.operator, problem.ts
    check_blocks(len(ts) - 1, jump, repeats)
    method = lambda y: impute(path, operator, y, *problem.parts)
    method(np.zeros(operator.shape_out))  # what does not fit is refused here
    options = {"jump": jump, "repeats": repeats, "denoise": problem.denoise}

    def run(keys: Array, predict: PredictFn, x: Array, y: Array) -> SampleResult:
        return repaint(keys, path, predict, method(y), x, ts, **options)

    return filled(problem, Restorer(run))


def check_blocks(steps: int, jump: int, repeats: int) -> None:
    if jump < 1 or steps % jump:
        raise ValueError(f"jump is {jump}; it must divide the number of steps, {steps}.")
    if repeats < 1:
        raise ValueError(f"repeats is {repeats}; run each block at least once.")
