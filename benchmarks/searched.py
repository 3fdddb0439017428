"""Rows of the sampler benchmark for the schedules of configs/solvers/, and their held-out figures.

    python -m benchmarks.searched [--nfe 5 8 10 15 20 40] [--starts 256]

prints the errors on data that no search has seen, beside those of the default recipe.
"""

import argparse

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.sampler_peers import Row
from benchmarks.sampler_problem import LAW, Problem, predict_fn
from samplers.learned import found, learned
from samplers.schedule import Schedule, load
from samplers.unified import unified
from search import multistep, scorer
from search.known import grid_nodes
from tools.search_data import HELD_OUT, sets_of

# A use of starts that no search has.
HELD_OUT_USE = 9


def rows(problem: Problem) -> list[Row]:
    """One row, "searched": the schedule of a budget where there is one. For other budgets UniPC of
    order 1 on the nodes of the nearest, so that the row exists at every budget."""
    files, calls = found(), [0]

    def count():
        calls[0] += 1

    predict = predict_fn(problem, count)

    def run(n: int) -> tuple[np.ndarray, int]:
        calls[0] = 0
        sampler = unified(LAW, load(files[n]) if n in files else between(n))
        start = jnp.asarray(problem.starts)
        out = jax.jit(lambda x: sampler(jax.random.key(0), predict, x).x)(start)
        out = np.asarray(out)
        jax.effects_barrier()
        return out, calls[0]

    return [Row("ours", "searched", "searched", run)]


def between(n: int) -> Schedule:
    """For a budget without a schedule."""
    with jax.enable_x64(True):
        lam = np.asarray(LAW.lam(learned(LAW, n, LAW.t0)))
    return multistep(lam, 1, "noise", "b1")


def default(n: int) -> Schedule:
    """The default recipe of `samplers.py`."""
    return multistep(grid_nodes(LAW, "tangent", n, LAW.t0), 1, "noise", "b1")


def held_out(budgets: list[int], starts: int) -> dict[int, dict[str, list[float]]]:
    """The errors of the schedules and of the default by budget, for the sets of `HELD_OUT`."""
    score = scorer(LAW, sets_of(HELD_OUT, 0, HELD_OUT_USE, starts), batch=2)
    figures = {}
    for nfe in budgets:
        pair = [load(found()[nfe]), default(nfe)]
        figures[nfe] = dict(zip(("searched", "default"), score(pair).tolist()))
    return figures


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nfe", type=int, nargs="+", default=sorted(found()))
    parser.add_argument("--starts", type=int, default=256)
    args = parser.parse_args(arguments)
    with jax.enable_x64(True):
        figures = held_out(args.nfe, args.starts)
    print(" nfe  recipe    " + "".join(f"{name:>18}" for name in HELD_OUT))
    for nfe, by_recipe in figures.items():
        for recipe, errors in by_recipe.items():
            print(f"{nfe:>4}  {recipe:<10}" + "".join(f"{error:>18.5f}" for error in errors))


if __name__ == "__main__":
    main()
