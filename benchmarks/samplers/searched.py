"""Rows of the sampler benchmark for the schedules of configs/solvers/, and their held-out errors.

    python -m benchmarks.samplers.searched [--nfe 5 8 10 15 20 40] [--starts 256]

prints the errors on data that no search has used, beside those of the fixed recipe.
"""

import argparse

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.samplers.peers import Row
from samplers import SampleResult, make_grid, sample, velocity_ab
from samplers.exponential.unified import unified
from samplers.schedules.learned import found, learned
from samplers.schedules.schedule import Schedule, load
from search import multistep
from search.problem import LAW, Problem, predict_fn
from search.score import Trajectories
from search.sets import HELD_OUT, sets_of

# Selects starts that no search uses.
HELD_OUT_USE = 9


def rows(problem: Problem) -> list[Row]:
    """Return one row, "searched": the schedule for the budget, if there is one.

    For other budgets the row is UniPC of order 1 on the nodes of the nearest schedule, and is not
    marked as a recipe.
    """
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

    recipe = lambda nfe: "searched" if nfe in files else ""
    return [Row("ours", "unified", "searched", run, recipe)]


def between(n: int) -> Schedule:
    """Return UniPC of order 1 on learned nodes, for a budget without a schedule."""
    with jax.enable_x64(True):
        lam = np.asarray(LAW.lam(learned(LAW, n, LAW.t0)))
    return multistep(lam, 1, "noise", "b1")


def fixed(n: int, predict, x) -> SampleResult:
    """Sample by the fixed recipe of `benchmarks/samplers/few_steps.py`, in n steps."""
    ts = make_grid("tangent", LAW, n, LAW.t0)
    return sample(jax.random.key(0), predict, velocity_ab(LAW, 4, 1.25), x, ts)


def error(run, paths: Trajectories) -> float:
    """Return the median over starts of the RMS difference per pixel to the known ends.

    `run` is `(predict, x) -> SampleResult`.
    """
    end = jax.jit(lambda x: run(paths.predict, x).x)(paths.x)
    return float(np.median(np.sqrt(np.mean((np.asarray(end) - paths.ends) ** 2, axis=1))))


def held_out(budgets: list[int], starts: int) -> dict[int, dict[str, list[float]]]:
    """Return errors of the schedules and of the fixed recipe by budget, for each held-out set."""
    sets, figures = sets_of(HELD_OUT, 0, HELD_OUT_USE, starts), {}
    for nfe in budgets:
        sampler = unified(LAW, load(found()[nfe]))
        runs = {
            "searched": lambda predict, x, run=sampler: run(jax.random.key(0), predict, x),
            "fixed": lambda predict, x, n=nfe: fixed(n, predict, x),
        }
        figures[nfe] = {name: [error(run, paths) for paths in sets] for name, run in runs.items()}
    return figures


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nfe", type=int, nargs="+", default=sorted(found()))
    parser.add_argument("--starts", type=int, default=256)
    args = parser.parse_args(arguments)
    if missing := set(args.nfe) - found().keys():
        parser.error(f"there is no schedule for {missing}; there are those of {sorted(found())}.")
    with jax.enable_x64(True):
        figures = held_out(args.nfe, args.starts)
    print(" nfe  recipe    " + "".join(f"{name:>18}" for name in HELD_OUT))
    for nfe, by_recipe in figures.items():
        for recipe, errors in by_recipe.items():
            print(f"{nfe:>4}  {recipe:<10}" + "".join(f"{error:>18.6f}" for error in errors))


if __name__ == "__main__":
    main()
