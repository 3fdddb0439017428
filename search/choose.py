"""The recipe for one network: the best of many solvers on a few of its own trajectories.

No fixed solver and grid suits all data. The truth of a network is its own flow ODE, solved in many
steps, and the error of a candidate is its distance to that solution. A choice therefore needs only
the network, and neither data nor a score of samples. Candidates race: all run on few starts, and
the better ones on more.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from samplers.schedules.coefficients import Coefficients, apply
from samplers.schedules.recipe import Recipe
from sde_lib import AffinePath, rms
from sde_lib.prediction import PredictFn, bound
from search.candidates import Candidate, candidates
from search.score import Trajectories, trajectories

# Rounds of the race: the share of the starts that is used, and the number of candidates that stay.
ROUNDS = ((1 / 16, 64), (1 / 2, 8), (1.0, 1))

LEAST = 1e-12  # a smaller distance counts as this one, since zero has no logarithm


class Choice(NamedTuple):
    """The chosen recipe, and facts about the choice for readers of its file (`about`)."""

    recipe: Recipe
    about: dict[str, Any]


def choose(
    path: AffinePath,
    predict: PredictFn,
    x: Array,
    nfe: int,
    eps: float,
    cond: Any = None,
    batch: int = 128,
    fine: int = 200,
) -> Choice:
    """The recipe of `nfe` evaluations that ends nearest to the network's own flow.

    Args:
        x: starts at `path.t1`, `(K, ...)`, K at least 8. They must differ from starts that are
            scored.
        cond: the condition of each start.
        batch: examples of one call of the network.
        fine: steps of the solve that is taken as the exact flow.

    Raises:
        ValueError: for a budget of no evaluations, fewer than 8 starts, or a network whose own flow
            is not finite.
    """
    check_budget(nfe, x)
    begin = time.perf_counter()
    known = truth(path, predict, x, eps, cond, fine)
    found = candidates(path, nfe, eps, spread(known.ends))
    ranked, error = race(predict, known, found, batch, cond)
    best = found[ranked[0]]
    about = {
        "nfe": nfe,
        "eps": eps,
        "grid": best.grid,
        "error": float(f"{error:.3g}"),
        "starts": len(x),
        "candidates": len(found),
        "seconds": round(time.perf_counter() - begin, 1),
    }
    return Choice(best.recipe, about)


def check_budget(nfe: int, x: Array) -> None:
    if nfe < 1 or len(x) < 8:
        raise ValueError(
            f"A recipe is chosen for {nfe} evaluations on {len(x)} starts; take at least 1 "
            "evaluation and 8 starts."
        )


def truth(path, predict: PredictFn, x: Array, eps: float, cond: Any, fine: int) -> Trajectories:
    """The starts with the ends of the network's own flow.

    Raises:
        ValueError: if the flow of a start is not finite.
    """
    known = trajectories(path, bound(predict, cond), jnp.asarray(x), eps, fine)
    if not np.all(np.isfinite(known.ends)):
        bad = int(np.sum(~np.isfinite(np.asarray(known.ends).reshape(len(x), -1)).all(axis=1)))
        raise ValueError(
            f"The flow of the network is not finite for {bad} of {len(x)} starts, so no solver "
            "can be chosen by it; train on, or take a solver by name."
        )
    return known


def spread(ends: Array) -> float:
    """The standard deviation of the ends per dimension, about their mean: the data's size."""
    return float(np.sqrt(np.mean(np.var(np.asarray(ends, np.float64), axis=0))))


def race(
    predict: PredictFn,
    known: Trajectories,
    found: Sequence[Candidate],
    batch: int,
    cond: Any = None,
) -> tuple[np.ndarray, float]:
    """The numbers of the candidates from the best to the worst, and the error of the best.

    An error is `error_over_starts` of the RMS differences per dimension to the true ends.
    Candidates that left the race early are ordered by their last round.
    """
    score = make_score(predict, known, [candidate.table for candidate in found], batch, cond)
    left, beaten = np.arange(len(found)), []
    for part, kept in ROUNDS:
        starts = np.arange(max(2, round(part * len(known.x))))
        errors = error_over_starts(score(left, starts))
        order = np.argsort(errors, kind="stable")
        beaten.insert(0, left[order[kept:]])
        left = left[order[:kept]]
    return np.concatenate([left, *beaten]), float(errors.min())


def error_over_starts(distances: np.ndarray) -> np.ndarray:
    """The geometric mean over starts of distances `(..., K)`; infinity if one is not finite.

    With few evaluations some starts end near another mode of the data than the flow does, and their
    share may be near one half. A median over few starts is then near or far by chance: on smooth
    curves, 5 evaluations and 32 starts, the choice by medians was up to 14 times as far from the
    flow as the best candidate, and that by geometric means at most 1.1 times.
    """
    return np.exp(np.mean(np.log(np.maximum(distances, LEAST)), axis=-1))


def make_score(
    predict: PredictFn,
    known: Trajectories,
    tables: Sequence[Coefficients],
    batch: int,
    cond: Any = None,
) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """`(candidates (C,), starts (K,)) -> (C, K)` distances, by one program of `batch` runs."""
    stacked = Coefficients(*map(np.stack, zip(*tables)))

    @jax.jit
    def run(x, ends, cond, table):
        return rms(apply(predict, x, table, cond) - ends)

    def score(chosen: np.ndarray, starts: np.ndarray) -> np.ndarray:
        which, start = (v.ravel() for v in np.meshgrid(chosen, starts, indexing="ij"))
        out = []
        for first in range(0, len(which), batch):
            # The last batch is filled up with the first run, so that one program serves all.
            rows = np.arange(first, first + batch)
            rows = np.where(rows < len(which), rows, 0)
            own = jax.tree.map(lambda v, at=start[rows]: jnp.asarray(v)[at], (known.x, known.ends))
            given = jax.tree.map(lambda v, at=start[rows]: jnp.asarray(v)[at], cond)
            table = Coefficients(*(v[which[rows]] for v in stacked))
            out.append(np.asarray(run(*own, given, table)))
        found = np.concatenate(out)[: len(which)].reshape(len(chosen), len(starts))
        return np.where(np.isfinite(found), found, np.inf)

    return score
