"""Teleportation: replace the first steps of a run by the exact flow of a Gaussian model.

Wang & Vastola 2024 (arXiv 2412.09726): at large noise a learned score is close to that of a
Gaussian with the mean and covariance of the data, whose flow is known in closed form. One jump
along this flow replaces the nodes above a noise level, without an evaluation. The sampler runs on
the remaining nodes.
"""

from collections.abc import Callable

import jax
import numpy as np
from jax import Array

from samplers.base import SampleFn, SampleResult
from sde_lib import AffinePath
from sde_lib.prediction import Cond, PredictFn, bound

FlowFn = Callable[[Array, Array, Array], Array]
RunFn = Callable[..., SampleResult]


def teleport(flow: FlowFn, run: RunFn, path: AffinePath, ts: Array, sigma: float) -> SampleFn:
    """`run` on the nodes of `ts` at or below `sigma`, entered by `flow` from `ts[0]`.

    Args:
        flow: `(x, s, t) -> x`, such as `partial(gaussian_flow, path, moments)`.
        run: `(key, predict, x, ts) -> SampleResult`, such as `sample` with its sampler given. It
            receives any further keyword arguments of the sampling function. The NFE of the result
            are those of `run`: with k nodes skipped, k steps fewer.
        ts: `(N + 1,)` falling times, known while tracing.
        sigma: the noise level `c / a` in the units of the data, well above their largest standard
            deviation. If sigma is at least `c / a` of `ts[0]`, nothing is skipped.

    The start x must be a draw of the law's prior, as for `run` alone. For VE and EDM the prior has
    zero mean while the Gaussian model has the mean of the data; the difference matters only if
    `sigma_max` is not far above the data.

    `run` starts from an intermediate state and not from a draw of the prior. Its method must
    therefore have no `enter` of its own; `impute` has one.

    Raises:
        ValueError: for a grid per example, and for a sigma below which there is no step.
    """
    rest = below(path, ts, sigma)

    def sample_from(
        key: Array, predict: PredictFn, x: Array, cond: Cond = None, **kwargs
    ) -> SampleResult:
        # If nothing is skipped, x goes to `run` unchanged, without the rounding of a zero-length
        # flow.
        landed = x if len(rest) == len(ts) else flow(x, ts[0], rest[0])
        return run(key, bound(predict, cond), landed, rest, **kwargs)

    return sample_from


def below(path: AffinePath, ts: Array, sigma: float) -> Array:
    """The nodes of `ts` whose noise level `c / a` is at or below sigma."""
    if ts.ndim != 1:
        raise ValueError(f"ts has the shape {ts.shape}; teleportation takes one grid for all.")
    # The number of kept nodes must be concrete, under `jit` too.
    with jax.ensure_compile_time_eval():
        levels = np.asarray(path.sigma(ts))
    # The tolerance lets a sigma that was read off a node, rounded, select that node.
    first = int(np.sum(~(levels <= sigma * (1.0 + 1e-5))))
    if first > len(ts) - 2:
        raise ValueError(
            f"sigma is {sigma} and the grid's last step starts at c / a = {levels[-2]:.4g}; take "
            "a sigma from there up."
        )
    return ts[first:]
