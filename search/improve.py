"""A recipe found at length: nodes and weights of the best kinds of solver are fitted by gradient,
and fresh trajectories decide between the results."""

import time
from typing import Any

import jax
import numpy as np
from jax import Array

from samplers.schedules.recipe import Recipe, run_recipe
from sde_lib import AffinePath, rms
from sde_lib.prediction import PredictFn, bound
from search.candidates import candidates
from search.choose import Choice, check_budget, error_over_starts, race, spread, truth
from search.score import Trajectories
from search.weights import fit_kinds, fit_weights


def improve(
    path: AffinePath,
    predict: PredictFn,
    x: Array,
    fresh: Array,
    nfe: int,
    eps: float,
    cond: tuple[Any, Any] = (None, None),
    batch: int = 128,
    fine: int = 200,
    kinds: int = 3,
    steps: int = 300,
) -> Choice:
    """The recipe of `nfe` evaluations that ends nearest to the network's own flow.

    Args:
        x: starts at `path.t1` on which solvers are chosen and fitted, `(K, ...)`.
        fresh: other starts, which decide between the fitted recipes and the chosen one.
        cond: the conditions of `x` and of `fresh`.
        kinds: the number of kinds of solver that are fitted.
        steps: the largest number of iterations of L-BFGS for each kind.

    Raises:
        ValueError: as `search.choose.choose`.
    """
    check_budget(nfe, x)
    begin = time.perf_counter()
    known = truth(path, predict, x, eps, cond[0], fine)
    found = candidates(path, nfe, eps, spread(known.ends))
    ranked, _ = race(predict, known, found, batch, cond[0])
    known = known._replace(predict=bound(predict, cond[0]))
    fit = lambda recipe: fit_weights(path, known, recipe, eps, steps)
    fitted = fit_kinds([found[i].recipe for i in ranked], fit, kinds)
    finalists = [*fitted, found[ranked[0]].recipe]
    judge = truth(path, predict, fresh, eps, cond[1], fine)._replace(
        predict=bound(predict, cond[1])
    )
    errors = [error_of(path, judge, recipe, eps) for recipe in finalists]
    best = int(np.argmin(errors))
    about = {
        "nfe": nfe,
        "eps": eps,
        "how": "chosen and fitted" if best < len(fitted) else "chosen",
        "error on fresh starts": float(f"{errors[best]:.3g}"),
        "before the fit": float(f"{errors[-1]:.3g}"),
        "starts": len(x),
        "candidates": len(found),
        "seconds": round(time.perf_counter() - begin, 1),
    }
    return Choice(finalists[best], about)


def error_of(path: AffinePath, known: Trajectories, recipe: Recipe, eps: float) -> float:
    """`error_over_starts` of the RMS differences per dimension to the true ends; infinity if one is
    not finite."""
    run = run_recipe(path, recipe, eps)
    solve = jax.jit(lambda x, ends: rms(run(jax.random.key(0), known.predict, x).x - ends))
    error = float(error_over_starts(np.asarray(solve(known.x, known.ends))))
    return error if np.isfinite(error) else np.inf
