"""How near do our samplers and those of other packages come to a known end with few evaluations?

    python -m benchmarks.samplers [--data digits] [--nfe 5 8 10 15 20 40]
                                  [--json OUT] [--plot OUT.png]

Starts, data and network are those of `search/problem.py`. The error is the median over starts of
the RMS difference per pixel between the sampler's result and the exact end point, which is denoised
at 0.002 by the exact conditional mean. Evaluations are counted inside the network. Grids named
"... + denoise" include a last evaluation at 0.002; on other grids the result keeps the noise of
0.002. The table shows the best rows at each NFE; the JSON has all rows.
"""

import argparse
import itertools
import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import samplers
from benchmarks.samplers.own import rows as own
from benchmarks.samplers.peers import Row, peers
from benchmarks.samplers.searched import rows as searched
from samplers.around.lml import lml
from samplers.base import begin
from samplers.exponential.adams_bashforth import adams_bashforth
from samplers.exponential.dpm_fast import dpm_fast
from samplers.exponential.dpm_multistep import dpm_multistep
from samplers.exponential.dpm_solver import dpm_solver
from samplers.exponential.unipc import unipc
from samplers.exponential.velocity_ab import velocity_ab
from samplers.steps.bdia import bdia
from samplers.steps.edm import edm
from samplers.steps.restoration_degradation import restoration_degradation
from search.problem import LAW, Problem, load_problem, predict_fn, reference, score

FORMS = ("noise", "data")

# Deterministic methods, `(name, path -> Sampler)`. To add a method, add a line.
OURS: list[tuple[str, Callable]] = [
    ("ddim", samplers.ddim),
    ("heun", samplers.heun),
    ("euler", partial(samplers.euler_maruyama, probability_flow=True)),
    ("reverse_diffusion", partial(samplers.reverse_diffusion, probability_flow=True)),
    ("edm", edm),
    *((f"dpm_solver {k} {f}", partial(dpm_solver, order=k, form=f)) for k in (2, 3) for f in FORMS),
    *(
        (f"dpm_multistep {k} {f}", partial(dpm_multistep, order=k, form=f))
        for k in (2, 3)
        for f in FORMS
    ),
    *(
        (f"adams_bashforth {k} {f} {b}", partial(adams_bashforth, order=k, form=f, basis=b))
        for k in (2, 3, 4)
        for f, b in (("data", "lam"), ("noise", "lam"), ("noise", "rho"))
    ),
    *((f"unipc {k} {f}", partial(unipc, order=k, form=f)) for k in (2, 3) for f in FORMS),
    *((f"unipc 1 {f} b1", partial(unipc, order=1, form=f, variant="b1")) for f in FORMS),
    *(
        (f"velocity_ab {k}, size {s}", partial(velocity_ab, order=k, sigma_data=s))
        for k in (2, 3, 4)
        for s in (0.5, 1.0, 1.25)
    ),
    *((f"bdia {g}", partial(bdia, gamma=g)) for g in (0.5, 1.0)),
    ("restoration_degradation 0.5", partial(restoration_degradation, look_back=0.5)),
    ("lml 0.3, ddim", lambda path: lml(path, samplers.ddim(path), 0.3)),
]

# One solver for all data. Its size of the data and the two numbers of its grid were chosen only on
# digits 0-511 and 1536-1796, from starts other than those scored here.
FIXED = ("velocity_ab 4, size 1.25", "tangent")


def ours(problem: Problem) -> list[Row]:
    """Return rows of every method in `OURS` on every grid, with and without the last denoising."""
    rows = []
    for name, make in OURS:
        run = stepper(problem, make(LAW))
        for grid in samplers.GRIDS:
            for last in (True, False):
                label = f"{grid} + denoise" if last else grid
                mark = "fixed" if (name, label) == FIXED else ""
                recipe = lambda nfe, mark=mark: mark
                rows.append(Row("ours", name, label, partial(run, grid, last), recipe))
    return [*rows, *single_steps(problem), *searched(problem), *own(problem)]


def single_steps(problem: Problem) -> list[Row]:
    """Return rows of DPM-Solver-fast, which divides a budget of n evaluations into steps itself."""
    calls = [0]

    def count():
        calls[0] += 1

    predict = predict_fn(problem, count)

    def run(grid, form, n):
        calls[0] = 0
        solver = dpm_fast(LAW, n, LAW.t0, form, grid)
        out = jax.jit(lambda x: solver(jax.random.key(0), predict, x).x)(problem.starts)
        out = np.asarray(out)
        jax.effects_barrier()
        return out, calls[0]

    return [
        Row("ours", f"dpm_fast {form}", grid, partial(run, grid, form))
        for grid in samplers.GRIDS
        for form in FORMS
    ]


def stepper(problem: Problem, sampler: samplers.Sampler) -> Callable:
    """Return `(grid, last, n) -> (result, NFE)`, which runs the loop of `samplers.sample`.

    One compiled step serves all grids and numbers of steps n.
    """
    calls = [0]

    def count():
        calls[0] += 1

    predict = predict_fn(problem, count)
    key = jax.random.key(0)
    step = jax.jit(lambda state, span: sampler.step(key, predict, state, span))
    denoised = jax.jit(lambda x, t: predict(x, t).x0)

    def run(grid, last, n):
        calls[0] = 0
        ts = samplers.make_grid(grid, LAW, n, LAW.t0)
        state = begin(sampler, jnp.asarray(problem.starts), ts[0])
        for i, (t, s) in enumerate(itertools.pairwise(ts)):
            state = step(state, samplers.Span(t, s, i, n))
        out = np.asarray(denoised(state.x, ts[-1]) if last else state.x)
        jax.effects_barrier()
        return out, calls[0]

    return run


def levels_for(row: Row, nfe: int, probes: tuple[tuple[int, int], ...]) -> int | None:
    """Return the n at which a row makes `nfe` evaluations, or None if there is no such n.

    `probes` are two runs `(n, NFE)`, from which the count is extrapolated linearly.
    """
    (n0, nfe0), (n1, nfe1) = probes
    each = (nfe1 - nfe0) // (n1 - n0)
    steps, rest = divmod(nfe - nfe0, each) if each > 0 else (0, 1)
    n = n0 + steps
    return n if rest == 0 and n >= 1 else None


def measure(row: Row, data: str, budgets: list[int], ends: np.ndarray) -> list[dict]:
    """Return the row's errors at the budgets that it can meet exactly and where it succeeds."""
    found = []
    try:
        probes = tuple((n, row.run(n)[1]) for n in (5, 6))
    except Exception as error:
        print(f"{row.source} {row.sampler}, {row.grid}: left out, {str(error)[:80]}")
        return []
    for nfe in budgets:
        n = levels_for(row, nfe, probes)
        try:
            out, made = row.run(n) if n else (None, None)
        except Exception as error:
            print(f"{row.source} {row.sampler}, {row.grid}, n = {n}: {str(error)[:80]}")
            continue
        if made == nfe and np.all(np.isfinite(out)):
            found.append(
                {
                    "source": row.source,
                    "sampler": row.sampler,
                    "grid": row.grid,
                    "recipe": row.recipe(nfe),
                    "data": data,
                    "nfe": made,
                    "rmse": score(out, ends),
                }
            )
    return found


def best(rows: list[dict], count: int = 1) -> dict[tuple[int, str], list[dict]]:
    """Return the `count` rows with the least errors by `(nfe, source)`, least first."""
    groups = {}
    for row in sorted(rows, key=lambda row: row["rmse"]):
        groups.setdefault((row["nfe"], row["source"]), []).append(row)
    return {key: groups[key][:count] for key in sorted(groups)}


def table(rows: list[dict]) -> None:
    for (nfe, source), group in best(rows, 2).items():
        for row in group:
            print(f"{nfe:>4}  {source:<12}{row['rmse']:.5f}  {row['sampler']}, {row['grid']}")
    for row in rows:
        if row["recipe"]:
            print(f"{row['nfe']:>4}  {row['recipe']:<12}{row['rmse']:.6f}  {row['sampler']}")


def plot(rows: list[dict], path: str) -> None:
    """Draw the best error of each peer over NFE, and the errors of our two recipes."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(5, 4))
    for recipe, label in (("default", "ours, measured"), ("searched", "ours, searched")):
        points = sorted((row["nfe"], row["rmse"]) for row in rows if row["recipe"] == recipe)
        if points:
            axes.loglog(*zip(*points), marker="o", linewidth=2, label=label)
    frontier = best(rows)
    for source in sorted({source for _, source in frontier} - {"ours"}):
        points = [(n, group[0]["rmse"]) for (n, s), group in frontier.items() if s == source]
        axes.loglog(*zip(*points), marker="o", linestyle="--", label=f"{source}, best row")
    axes.set(xlabel="network evaluations", ylabel="median RMS error per pixel")
    budgets = sorted({row["nfe"] for row in rows if row["recipe"]})
    axes.set_xticks(budgets, [str(budget) for budget in budgets])
    axes.minorticks_off()
    axes.legend()
    figure.savefig(path, dpi=150, bbox_inches="tight")


def compare(problem: Problem, budgets: list[int], folder: Path | None) -> list[dict]:
    """Return all rows of all sources."""
    truth = reference(problem, folder)
    print(f"reference: {truth.seconds:.1f} s when it was made")
    rows = []
    for source in (ours, peers):
        begin, first = time.perf_counter(), len(rows)
        for row in source(problem):
            rows += measure(row, problem.name, budgets, truth.ends)
        print(f"{source.__name__}: {len(rows) - first} rows, {time.perf_counter() - begin:.0f} s")
    return rows


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="digits", help='"digits", or an npz file with an array x')
    parser.add_argument("--nfe", type=int, nargs="+", default=[5, 8, 10, 15, 20, 40])
    parser.add_argument("--json", help="where all rows are written")
    parser.add_argument("--plot", help="where a picture of the frontier is written")
    parser.add_argument("--cache", default="runs/benchmarks", help="where references are kept")
    args = parser.parse_args(arguments)
    with jax.enable_x64(True):
        rows = compare(load_problem(args.data), args.nfe, Path(args.cache))
    table(rows)
    if args.json:
        Path(args.json).write_text(json.dumps(rows, indent=1))
    if args.plot:
        plot(rows, args.plot)


if __name__ == "__main__":
    main()
