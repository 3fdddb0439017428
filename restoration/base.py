"""The interface of a restorer: from a measurement problem and options to restorations."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jax import Array

from operators import LinearOperator
from samplers import Sampler, SampleResult, sample
from sde_lib import AffinePath
from sde_lib.prediction import PredictFn


class Problem(NamedTuple):
    """The measurement problem `y = A x0 + noise_std n`, and the configured sampler for it.

    `ts` are the times of a run, `parts` the methods of one step in order, `denoise` whether a run
    ends with the conditional mean, and `samples` the number of restorations of a measurement.
    """

    path: AffinePath
    operator: LinearOperator
    noise_std: float
    ts: Array
    parts: Sequence[Sampler]
    denoise: bool = False
    samples: int = 1


class Restorer(NamedTuple):
    """A restoration method: either `run` or `together`; the other one is None.

    `run(keys, predict, x, y) -> SampleResult` restores a batch, with x a draw of the prior and y
    `(B, *shape_out)`. `together(key, predict, y) -> SampleResult` makes all restorations
    `(samples, ...)` of one measurement y in one run.
    """

    run: Callable[..., SampleResult] | None = None
    together: Callable[..., SampleResult] | None = None


def down_the_grid(problem: Problem, method: Callable[[Array], Sampler]) -> Restorer:
    """The restorer that runs `method(y)` down the grid."""
    method(np.zeros(problem.operator.shape_out))  # what does not fit is refused here

    def run(keys: Array, predict: PredictFn, x: Array, y: Array) -> SampleResult:
        return sample(keys, predict, method(y), x, problem.ts, denoise=problem.denoise)

    return Restorer(run)


def check_exact(problem: Problem) -> None:
    """Refuse a noisy measurement for a method that takes measured values as exact.

    Raises:
        ValueError: for a noise_std that is not zero.
    """
    if problem.noise_std:
        raise ValueError(
            f"guidance.noise_std is {problem.noise_std}, and a method that overwrites what is "
            "known takes what is measured as exact; set it to 0, or take 'pigdm' or 'mmps'."
        )
