"""ODE-Jump: a sampling run that stops early and returns the denoiser's output.

Chen et al. 2023 (arXiv 2305.19947): along a solution of the flow ODE the output of the denoiser
settles long before the state, which still carries noise. The steps below a noise level may
therefore be replaced by `D(x, sigma)`. An Euler step is a convex combination of x and D, and an
Euler step straight to sigma = 0 gives D: the jump is one such step.
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

    The result can replace `run` anywhere. In `teleport` it then skips both ends of the grid.

    Args:
        run: `(key, predict, x, ts) -> SampleResult`, such as `sample` with its sampler given, and
            without denoising, since the jump denoises.
        sigma: the noise level `c / a` in the units of the data. The run ends on the last node that
            is not below sigma. At the grid's last node the jump is the usual denoising; at the
            first node it is one evaluation of the network on the noise.

    The NFE are those of the steps that are made, plus one.

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
    # The number of kept nodes must be concrete, under `jit` too.
    with jax.ensure_compile_time_eval():
        levels = np.asarray(path.sigma(ts))
    # The tolerance lets a sigma that was read off a node, rounded, select that node.
    last = int(np.sum(levels >= sigma * (1.0 - 1e-5)))
    if last < 1:
        raise ValueError(
            f"sigma is {sigma} and the grid starts at c / a = {levels[0]:.4g}; take a sigma from "
            "there down."
        )
    return ts[:last]
