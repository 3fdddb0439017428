"""Deviation of a learned denoiser from the optimal one of its training set, and its consequences.

Chen et al. 2023 (arXiv 2305.19947): with the optimal denoiser D* of a finite set every run ends on
a training example. A sample is new only because the learned D differs from D*. The difference is
small at large noise and grows at the noise levels where D* settles on one example; it remains if D
ends elsewhere. The difference is measured between denoisers, not scores: at small sigma the score
difference `(D - D*) / sigma^2` would show little but the factor `1 / sigma^2`.
"""

from typing import NamedTuple

import jax
import numpy as np
from jax import Array

from evaluation.tasks.recording import Recording, record
from evaluation.tasks.trajectories import Trajectory, trajectory
from samplers.base import Sampler
from sde_lib import AffinePath
from sde_lib.prediction import PredictFn


class ScoreDeviation(NamedTuple):
    """Two runs from one start, `learned` and `optimal`, and the distances between them.

    Distances are `(T, B)`, in units of the data. `denoiser`: `|D(y_n) - D*(y_n)|` at the states of
    the learned run; `paths`: `|y_n - y*_n|`; `outputs`: `|D(y_n) - D*(y*_n)|`.
    """

    learned: Trajectory
    optimal: Trajectory
    denoiser: np.ndarray
    paths: np.ndarray
    outputs: np.ndarray


def paired(
    key: Array, learned: PredictFn, optimal: PredictFn, sampler: Sampler, x: Array, ts: Array
) -> tuple[Recording, Recording, Array]:
    """Record both runs with the same start and noise, and D* at the nodes of the first.

    The function is pure. Its caller compiles it, with the parameters and the training points among
    the arguments.

    Returns:
        The learned run, the optimal run, and D* at the states of the learned run, `(T, B, ...)`.
    """
    first, second = (record(key, predict, sampler, x, ts) for predict in (learned, optimal))
    return first, second, jax.lax.map(lambda node: optimal(*node).x0, (first.x, first.t))


def compare(
    path: AffinePath, first: Recording, second: Recording, at_first: Array
) -> ScoreDeviation:
    """Compute the distances from the three results of `paired`."""
    learned, optimal = trajectory(path, first), trajectory(path, second)
    best = np.asarray(at_first, np.float64).reshape(learned.d.shape)
    length = lambda v: np.linalg.norm(v, axis=-1)
    return ScoreDeviation(
        learned,
        optimal,
        length(learned.d - best),
        length(learned.y - optimal.y),
        length(learned.d - optimal.d),
    )
