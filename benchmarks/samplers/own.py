"""Rows of the sampler benchmark for solvers that are measured on the problem's own network.

`search.choose` compares solvers on 64 trajectories from other starts than those that are scored.
With `refine`, `search.improve` also fits nodes and weights on 128 starts, and 64 others decide.
"""

from collections.abc import Callable
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from benchmarks.samplers.peers import Row
from samplers.schedules.recipe import Recipe, run_recipe
from search.choose import choose
from search.improve import improve
from search.problem import LAW, Problem, predict_fn

# Seeds of the starts: none of them is that of the scored starts, which is 0.
CHOSEN, REFINED, JUDGED = 101, 102, 103


def rows(problem: Problem, refine: bool = False) -> list[Row]:
    """Return the row "default", and with `refine` the row "searched on the network" as well."""
    found = [Row("ours", "own", "measured", runner(problem, chosen), lambda nfe: "default")]
    if refine:
        mark = "searched on the network"
        found.append(Row("ours", "own", "refined", runner(problem, refined), lambda nfe: mark))
    return found


def chosen(problem: Problem, nfe: int) -> Recipe:
    """Return the best of the published solvers on 64 starts."""
    return choose(LAW, predict_fn(problem), starts(problem, CHOSEN, 64), nfe, LAW.t0).recipe


def refined(problem: Problem, nfe: int) -> Recipe:
    """Return the best recipe after nodes and weights are fitted."""
    train, fresh = starts(problem, REFINED, 128), starts(problem, JUDGED, 64)
    return improve(LAW, predict_fn(problem), train, fresh, nfe, LAW.t0).recipe


def starts(problem: Problem, seed: int, count: int) -> Array:
    """Return draws of the prior, `(count, D)`."""
    noise = np.random.default_rng(seed).standard_normal((count, problem.x.shape[1]))
    return jnp.asarray(LAW.t1 * noise)


def runner(problem: Problem, find: Callable[[Problem, int], Recipe]) -> Callable:
    """Return `n -> (result, NFE)`; a recipe is found once for each n."""
    calls = [0]

    def count():
        calls[0] += 1

    predict, found = predict_fn(problem, count), cache(lambda n: find(problem, n))

    def run(n: int) -> tuple[np.ndarray, int]:
        sampler = run_recipe(LAW, found(n), LAW.t0)
        calls[0] = 0
        solve = jax.jit(lambda x: sampler(jax.random.key(0), predict, x).x)
        out = np.asarray(solve(jnp.asarray(problem.starts)))
        jax.effects_barrier()
        return out, calls[0]

    return run
