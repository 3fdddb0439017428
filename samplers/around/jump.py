"""ODE-Jump: a sampling run that stops early and answers with the denoiser.

Chen et al. 2023 (arXiv 2305.19947): along a solution of the flow ODE the denoiser's outputs settle
long before the state does, as the state still has its noise to lose. So the steps below a noise
level may be left out and `D(x, sigma)` given in their place. The Euler step is a convex combination
of x and D, and straight to sigma = 0 it is D: the jump is one such step.
"""

import jax
import numpy as np
from jax import Array

from samplers.around.teleport import RunFn
from samplers.base import SampleResult
from sde_lib import AffinePath
from sde_lib.prediction import PredictFn


def jump(run: RunFn, path: AffinePath, sigma: float) -> RunFn:
    """`run` on the nodes at or above `sigma`, then the conditional mean of the data there.

    It takes the place of `run` anywhere, in `teleport` too, which then leaves out both ends.

    Args:
        run: `(key, predict, x, ts) -> SampleResult`, such as `sample` with its sampler given, and
            without denoising, which the jump is.
        sigma: the noise level `c / a` in the units of the data. The run ends on the last node that
            is not below it; at the grid's last node this is the usual denoising, and at the first
            the answer of the network to the noise, from one evaluation.

    The NFE are those of the steps made and one more.

    Raises:
        ValueError: once called, for a grid per example, and for a sigma above the grid.
    """

    def run_to(key: Array, predict: PredictFn, x: Array, ts: Array) -> SampleResult:
        kept = above(path, ts, sigma)
        result = run(key, predict, x, kept)
        return result._replace(x=predict(result.x, kept[-1]).x0, nfe=result.nfe + 1)

    return run_to


def above(path: AffinePath, ts: Array, sigma: float) -> Array:
    """The nodes of `ts` whose noise level `c / a` is at or above sigma, at least one."""
    if ts.ndim != 1:
        raise ValueError(f"ts has the shape {ts.shape}; a jump takes one grid for all.")
    # A length must be a number, under `jit` too.
    with jax.ensure_compile_time_eval():
        levels = np.asarray(path.sigma(ts))
    # A sigma read off a node means that node, whatever the last digits of its logarithm.
    last = int(np.sum(levels >= sigma * (1.0 - 1e-5)))
    if last < 1:
        raise ValueError(
            f"sigma is {sigma} and the grid starts at c / a = {levels[0]:.4g}; take a sigma from "
            "there down."
        )
    return ts[:last]
