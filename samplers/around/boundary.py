"""One start for all: the optimal boundary condition of conditional sampling.

Ma et al. 2024 (ICLR, arXiv 2305.15357): a deterministic solver makes of the start x_T and the
condition y one image `h(x_T, y)`. The best x_T depends little on y, so it is looked for once, on
pairs (z_i, y_i) of image and condition, and kept for every new y:

    x_T* = argmin_k  mean_i M(h(x_T^(k), y_i), z_i),    x_T^(k) from the prior, k = 0 ... K - 1.

For z | y ~ N(m(y), C) with one C for all y, the flow scales what `x_T - a m(y)` has along an
eigenvector of C by `sqrt(C_k / (a^2 C_k + c^2))`, and the squared error expected of a start is

    tr C + sum_k C_k / (a^2 C_k + c^2) (u_k^T (x_T - a m(y)))^2.

Where a is small at t1 the order of the candidates is the same for every y. The best start is then
zero and gives the mean m(y): a squared error asks for blur, and the method is for perceptual
distances.

A start belongs to the network, the solver, its steps and the image size: the file says which. It
takes the variety from the samples, and the pairs must not be those it is judged on.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from samplers.base import SampleFn, SampleResult
from sde_lib import AffinePath, fold_in
from sde_lib.prediction import Cond, PredictFn
from whole_files import put_arrays

MetricFn = Callable[[Array, Array], Array]


class Setting(NamedTuple):
    """What a start belongs to: `shape` of one image, the solver and network by name, `steps`."""

    shape: tuple[int, ...]
    solver: str
    steps: int
    network: str = ""


class Boundary(NamedTuple):
    """The start `x` of `setting.shape`: candidate `index`, whose mean distance is `score`."""

    x: np.ndarray
    index: int
    score: float
    setting: Setting


def candidate(path: AffinePath, key: Array, index: Array | int, shape: tuple[int, ...]) -> Array:
    """Candidate `index`, a draw of the prior, from `fold_in(key, index)`: the same in any set."""
    return path.prior_sample(fold_in(key, index), (1, *shape))[0]


def candidate_scores(
    path: AffinePath,
    key: Array,
    run: SampleFn,
    predict: PredictFn,
    targets: Array,
    metric: MetricFn,
    count: int,
    cond: Cond = None,
) -> Array:
    """`M(h(x_T^(k), y_i), z_i)`, `(count, R)`: what the start is chosen by.

    Args:
        key: one key, of all candidates.
        run: a deterministic solver, such as `sample` with its grid given, started at t1. The metric
            sees what it returns, so decode latents in it.
        predict: the network.
        targets: the images z_i, `(R, ...)`.
        metric: `(images, targets) -> (R,)`, least for the best.
        count: K, the number of candidates.
        cond: the R conditions y_i.

    The pairs are a batch and candidates follow one another, so the memory is that of one run.

    Raises:
        ValueError: for no candidates, or an array of keys.
    """
    if count < 1:
        raise ValueError(f"count is {count}; a search needs at least 1 candidate.")
    if key.ndim:
        raise ValueError(f"key has the shape {key.shape}; candidates come from one key.")

    def score(index: Array) -> Array:
        start = candidate(path, key, index, targets.shape[1:])
        x = jnp.broadcast_to(start, targets.shape).astype(targets.dtype)
        return metric(run(key, predict, x, cond).x, targets)

    return jax.lax.map(score, jnp.arange(count))


def best(path: AffinePath, key: Array, scores: Array, setting: Setting) -> Boundary:
    """The candidate of the least mean score, from `candidate_scores` `(K, R)` and the same key.

    Raises:
        ValueError: if every mean is nan.
    """
    means = np.mean(np.asarray(scores, np.float64), axis=1)
    if np.all(np.isnan(means)):
        raise ValueError(
            f"All {len(means)} candidates have the score nan; look at the solver and the metric."
        )
    index = int(np.nanargmin(means))
    x = np.asarray(candidate(path, key, index, setting.shape))
    return Boundary(x, index, float(means[index]), setting)


def from_boundary(boundary: Boundary, run: SampleFn) -> SampleFn:
    """`run` from the kept start, whatever start it is handed; of that only the batch size counts.

    Raises:
        ValueError: for images of another shape, when called.
    """

    def sample_from(key: Array, predict: PredictFn, x: Array, cond: Cond = None) -> SampleResult:
        if x.shape[1:] != boundary.setting.shape:
            raise ValueError(
                f"The kept start is for images of shape {boundary.setting.shape} and these have "
                f"{x.shape[1:]}; search for a start of that shape."
            )
        kept = jnp.broadcast_to(jnp.asarray(boundary.x, x.dtype), x.shape)
        return run(key, predict, kept, cond)

    return sample_from


def save(file: str, boundary: Boundary) -> None:
    """Writes an npz of plain arrays. The tensor is kept: keys need not mean the same elsewhere."""
    _, solver, steps, network = boundary.setting
    put_arrays(
        file, x=boundary.x, index=boundary.index, score=boundary.score,
        solver=solver, steps=steps, network=network,
    )  # fmt: skip


def load(file: str, setting: Setting) -> Boundary:
    """Reads what `save` wrote, for the setting in which it is to be used.

    Raises:
        ValueError: if the file was made for another shape, solver, number of steps or network.
    """
    with np.load(file) as saved:
        x = saved["x"]
        made = Setting(x.shape, str(saved["solver"]), int(saved["steps"]), str(saved["network"]))
        index, score = int(saved["index"]), float(saved["score"])
    for name, theirs, ours in zip(Setting._fields, made, setting):
        if theirs != ours:
            raise ValueError(
                f"{file} holds a start for {name} = {theirs!r} and this run has {ours!r}; a start "
                "serves only what it was found with: search again."
            )
    return Boundary(x, index, score, made)
