"""The optimal boundary condition of conditional sampling: one start for all conditions.

Ma et al. 2024 (ICLR, arXiv 2305.15357): a deterministic solver maps the start x_T and the condition
y to one image `h(x_T, y)`. The best x_T depends little on y. The search for x_T is therefore made
once, on pairs (z_i, y_i) of image and condition, and its result is used for every new y:

    x_T* = argmin_k  mean_i M(h(x_T^(k), y_i), z_i),    x_T^(k) from the prior, k = 0 ... K - 1.

For z | y ~ N(m(y), C) with one C for all y, the flow scales the component of `x_T - a m(y)` along
an eigenvector of C by `sqrt(C_k / (a^2 C_k + c^2))`. The expected squared error of a start is

    tr C + sum_k C_k / (a^2 C_k + c^2) (u_k^T (x_T - a m(y)))^2.

If a is small at t1, the order of the candidates is the same for every y. For the squared error the
best start is then zero, which gives the blurred mean m(y); the method is meant for perceptual
distances.

A start is valid only for the network, the solver, the number of steps and the image size of its
search, which the file names. Samples from one start have no variety. The pairs of the search must
not be used for evaluation.
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
    """The setting of a start: the `shape` of one image, the names of the solver and the network,
    and the number of `steps`."""

    shape: tuple[int, ...]
    solver: str
    steps: int
    network: str = ""


class Boundary(NamedTuple):
    """The start `x` of shape `setting.shape`, which is candidate `index` with the mean distance
    `score`."""

    x: np.ndarray
    index: int
    score: float
    setting: Setting


def candidate(path: AffinePath, key: Array, index: Array | int, shape: tuple[int, ...]) -> Array:
    """Candidate `index`: a draw of the prior from `fold_in(key, index)`, whatever the count."""
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
    """The distances `M(h(x_T^(k), y_i), z_i)`, `(count, R)`, by which the start is chosen.

    Args:
        key: one key for all candidates.
        run: a deterministic solver, such as `sample` with its grid given, started at t1. The metric
            receives the output of `run`, so `run` must decode latents.
        predict: the network.
        targets: the images z_i, `(R, ...)`.
        metric: `(images, targets) -> (R,)`, least for the best.
        count: K, the number of candidates.
        cond: the R conditions y_i.

    The pairs form one batch and the candidates run one after another, so the memory is that of one
    run.

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
    """The candidate with the least mean score, from the scores `(K, R)` of `candidate_scores` and
    its key. Candidates whose mean is nan are skipped.

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
    """`run` from the kept start. Of the x that it is called with, only the batch size is used.

    Raises:
        ValueError: when called with images of another shape.
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
    """Write an npz file of plain arrays. The start itself is stored, because a key may give other
    draws on another machine or version."""
    _, solver, steps, network = boundary.setting
    put_arrays(
        file, x=boundary.x, index=boundary.index, score=boundary.score,
        solver=solver, steps=steps, network=network,
    )  # fmt: skip


def load(file: str, setting: Setting) -> Boundary:
    """Read a file of `save` for use in `setting`.

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
