"""How near do guided samples come to a known posterior, for a given number of evaluations?

    python -m benchmarks.guidance [guides] [ensemble] [impute] [classes] [--steps 10 20 50]
                                  [--json OUT]

The problems are those of `problem.py`, and each method gets the exact network. `error_mean` is the
distance of the means in posterior standard deviations, and `error_cov` the distance of the
covariances relative to the posterior's. On Gaussian data a deterministic method is an affine map of
its start. The script reads off this map, so those rows have no sampling error. Other rows use 512
samples, and `*_se` is the error that so many perfect samples would have. `nfe` counts evaluations
of the network, and `passes` products with its derivative. The other parts are in `limits.py`:
methods that are exact in a limit.
"""

import argparse
import itertools
import json
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.guidance import limits as guidance_limits
from benchmarks.guidance.peers import Row, peers
from benchmarks.guidance.problem import LAW, NOISE, Problem, predict_fn, problems, score, starts_of
from guidance import annealed, dps, dps_steps, mmps, pigdm
from restoration import ddrm
from samplers import Sampler, Span, ancestral, dpm_multistep, make_grid, velocity_ab
from samplers.base import begin

GRID = "karras"
PARTS = ("guides", *guidance_limits.PARTS)


def ours(problem: Problem) -> list[Row]:
    """Return a row for every method; guides with stiff equations use a solver of order 2."""
    args = (problem.operator, problem.y.reshape(problem.operator.shape_out), NOISE)
    size = problem.data_std
    fast = ("velocity_ab 4", velocity_ab(LAW, 4, 1.0))
    steady = ("dpm_multistep 2", dpm_multistep(LAW))
    # Name, passes of one evaluation, guide, sampler.
    guides = [
        *((f"mmps {n}", n + 1, mmps(LAW, *args, n, data_std=size), fast) for n in (1, 3, 5)),
        ("mmps 3, as published", 4, mmps(LAW, *args, 3, solver="cg", data_std=None), fast),
        ("pigdm", 1, pigdm(LAW, *args, size), fast),
        ("dps, likelihood", 1, dps(LAW, *args), steady),
        ("annealed, flat", 0, annealed(LAW, *args), steady),
    ]
    rows = [
        Row("ours", name, kind, True, runner(problem, sampler, guide, passes))
        for name, passes, guide, (kind, sampler) in guides
    ]
    plain = lambda predict: predict
    for zeta in (0.15, 0.5):  # half of azula's, because the paper's step is that of |r|^2 / |r|
        steps = dps_steps(LAW, ancestral(LAW), *args[:2], zeta)
        run = runner(problem, steps, plain, 1)
        rows.append(Row("ours", f"dps_steps {zeta}", "ancestral", False, run))
    run = runner(problem, ddrm(LAW, *args), plain, 0)
    return [*rows, Row("ours", "ddrm", "its own", False, run)]


def runner(problem: Problem, sampler: Sampler, guide: Callable, passes: int) -> Callable:
    """Return `run(starts, n)`: the loop of `samplers.sample`, with one compiled step for all n."""
    calls = [0]

    def count():
        calls[0] += 1

    predict = guide(predict_fn(problem, count))
    step = jax.jit(lambda key, state, span: sampler.step(key, predict, state, span))
    denoised = jax.jit(lambda x, t: predict(x, t).x0)
    key = jax.random.key(0)

    def run(starts, n):
        calls[0] = 0
        ts = make_grid(GRID, LAW, n, LAW.t0)
        state = begin(sampler, jnp.asarray(starts).reshape(-1, *problem.shape), ts[0])
        for i, (t, s) in enumerate(itertools.pairwise(ts)):
            state = step(jax.random.fold_in(key, i), state, Span(t, s, i, n))
        out = np.asarray(denoised(state.x, ts[-1])).reshape(len(starts), -1)
        jax.effects_barrier()
        return out, calls[0], passes * calls[0]

    return run


def measure(problem: Problem, row: Row, steps: int) -> dict:
    affine = row.affine and problem.gaussian
    begin = time.perf_counter()
    ends, nfe, passes = row.run(starts_of(problem, affine), steps)
    seconds = time.perf_counter() - begin
    found = score(problem, ends, affine)
    return {
        "problem": problem.name,
        "operator": problem.operator.name,
        "source": row.source,
        "method": row.method,
        "sampler": row.sampler,
        "steps": steps,
        "nfe": nfe,
        "passes": passes,
        "error_mean": found.mean,
        "error_cov": found.cov,
        "error_mean_se": found.mean_se,
        "error_cov_se": found.cov_se,
        "seconds": seconds,
    }


def compare(problem: Problem, steps: list[int]) -> list[dict]:
    rows = []
    for make in (ours, peers):
        begin = time.perf_counter()
        for row in make(problem):
            for n in steps:
                # The first call compiles and is not timed.
                if row.source == "ours" and n == steps[0]:
                    measure(problem, row, 1)
                rows.append(measure(problem, row, n))
        took = time.perf_counter() - begin
        print(f"{problem.name}, {problem.operator.name}, {make.__name__}: {took:.0f} s", flush=True)
    return rows


def table(rows: list[dict], steps: int) -> None:
    """Print a line for each method, with the sampler for which the sum of its two errors is least.

    The last column has the geometric means over the operators on the digits.
    """
    rows = [row for row in rows if row["steps"] == steps]
    cases = sorted({(row["problem"], row["operator"]) for row in rows})
    print(f"\n{steps} steps; error of the mean / of the covariance")
    print(" | ".join(["method", "nfe, passes", *(f"{p}, {o}" for p, o in cases), "digits"]))
    for source, method in dict.fromkeys((row["source"], row["method"]) for row in rows):
        cells, cost, digits = [], "", []
        for case in cases:
            these = [
                row
                for row in rows
                if (row["source"], row["method"]) == (source, method)
                and (row["problem"], row["operator"]) == case
            ]
            both = lambda row: np.nan_to_num(row["error_mean"] + row["error_cov"], nan=np.inf)
            best = min(these, key=both)
            cells.append(f"{best['error_mean']:.2g} / {best['error_cov']:.2g}")
            cost = f"{best['nfe']}, {best['passes']}"
            if case[0] == "digits 64":
                digits.append((best["error_mean"], best["error_cov"]))
        mean, cov = np.exp(np.mean(np.log(digits), axis=0))
        print(" | ".join([f"{source} {method}", cost, *cells, f"{mean:.2g} / {cov:.2g}"]))


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(PARTS)}; all by default")
    parser.add_argument("--steps", type=int, nargs="+", default=[10, 20, 50])
    parser.add_argument("--json", help="where the rows are written")
    args = parser.parse_args(arguments)
    if unknown := set(args.parts) - set(PARTS):
        parser.error(f"there is no part {unknown.pop()!r}; there are {', '.join(PARTS)}.")
    everything = []
    with jax.enable_x64(True):
        for part in args.parts or PARTS:
            if part == "guides":
                rows = [row for problem in problems() for row in compare(problem, args.steps)]
                for steps in args.steps:
                    table(rows, steps)
            else:
                rows = []
                for row in guidance_limits.PARTS[part]():
                    rows.append(row)
                    print(f"{row['problem']}, {row['operator']}: {row['method']}", flush=True)
                print(f"\n{part}; error of the mean / of the covariance")
                guidance_limits.show(rows)
            everything += [{"part": part, **row} for row in rows]
    if args.json:
        Path(args.json).write_text(json.dumps(everything, indent=1))


if __name__ == "__main__":
    main()
