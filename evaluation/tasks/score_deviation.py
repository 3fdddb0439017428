"""How a learned denoiser departs from the optimal one of its training set, and what comes of it.

Chen et al. 2023 (arXiv 2305.19947): the optimal denoiser D* of a finite set ends every run on a
training example; what is new in a sample is due to a learned D that differs. The difference is
small at large noise and grows where D* commits itself to an example; where D ends elsewhere it
stays.
It is told in denoisers, not scores: `(D - D*) / sigma^2` at small sigma shows the factor alone.
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
    """Two runs from one start, `learned` and `optimal`, and what lies between them, `(T, B)` each.

    `denoiser`: `|D(y_n) - D*(y_n)|` at the states of the learned run, where D departs from D*;
    `paths`: `|y_n - y*_n|`; `outputs`: `|D(y_n) - D*(y*_n)|`. Distances in the units of the data.
    """

    learned: Trajectory
    optimal: Trajectory
    denoiser: np.ndarray
    paths: np.ndarray
    outputs: np.ndarray


def paired(
    key: Array, learned: PredictFn, optimal: PredictFn, sampler: Sampler, x: Array, ts: Array
) -> tuple[Recording, Recording, Array]:
    """Both runs, with the same start and noise, and D* at the nodes of the first `(T, B, ...)`.

    A pure function, to be compiled with the parameters and the points among its arguments.
    """
    first, second = (record(key, predict, sampler, x, ts) for predict in (learned, optimal))
    return first, second, jax.lax.map(lambda node: optimal(*node).x0, (first.x, first.t))


def compare(
    path: AffinePath, first: Recording, second: Recording, at_first: Array
) -> ScoreDeviation:
    """The curves, from what `paired` gives."""
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
