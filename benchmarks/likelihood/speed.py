"""How exact is log p, and how many passes of the network, seconds and memory does it take?

    python -m benchmarks.likelihood [methods] [slopes] [probes] [mates]
                                    [--only network] [--json OUT] [--plot OUT.png] [--repeats 5]
                                    [--config configs/digits_vp.py --workdir runs/digits]

The table `methods` compares our solvers with the scheme of score_sde, Diffrax's plain recipe and
PyTorch packages, on the problems of `problem.py`, and on a trained network if --workdir has one.

- The error is the mean over examples of |log p - truth| in nats per dimension, with the exact
  trace. The truth is a formula, or for the network a solve in 511 steps in float64.
- Seconds are the median of interleaved runs with one Rademacher probe, compiled beforehand.
- Memory is XLA's plan for one call of a compiled program, without its arguments.
- A pass is one evaluation of the network, alone or with its derivative.
- `*` marks an error of at most that of score_sde's scheme, with a third of the scheme's time and
  half of its passes.

The other tables are in `checks.py`.
"""

import argparse
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import jax
import numpy as np

from benchmarks.likelihood import checks
from benchmarks.likelihood.in_torch import torch_methods
from benchmarks.likelihood.peers import Method, Run, diffrax_plain, scipy_rk45
from benchmarks.likelihood.problem import KEYS, LAWS, Problem, gaussian, mixture, network
from benchmarks.speed.timing import interleaved
from likelihood import DIVERGENCES, Adams, log_likelihood
from samplers import Solver
from sde_lib.noise import rademacher_like

TABLES = ("methods", "slopes", "probes", "mates")
BASE = "score_sde's scheme"
# Our methods: name and solver.
OURS = {
    **{f"adams 4, {n} steps, angle": Adams(n) for n in (31, 47, 63, 83)},
    "adams 4, 63 steps, lam": Adams(63, variable="lam"),
    "tsit5 1e-3, angle": Solver(rtol=1e-3, atol=1e-3, variable="angle"),
    "tsit5 1e-5, angle": Solver(variable="angle"),
    "tsit5 1e-5, t": Solver(),
    "dopri8 1e-5, angle": Solver("dopri8", variable="angle"),
}


def ours(problem: Problem, solver: Solver | Adams, exact: bool) -> Method:
    """Return our `log_likelihood`, compiled."""
    divergence = DIVERGENCES["exact" if exact else "rademacher"](1)

    def call(keys, x):
        return log_likelihood(
            keys, problem.path, problem.predict, x,
            divergence=divergence, solver=solver, prior_logp=problem.end,
        )  # fmt: skip

    compiled = jax.jit(call).lower(KEYS, problem.x).compile()

    def run() -> Run:
        result = jax.device_get(compiled(KEYS, problem.x))
        nfe = float(np.max(result.nfe))  # the batch waits for its longest solve
        return Run(result.logp, nfe, nfe)

    return Method(run, [compiled])


def methods(problem: Problem) -> dict[tuple[str, str], Callable[[bool], Method]]:
    """Return {(source, method): make}, where `make(exact)` returns a `Method`."""
    probe = rademacher_like(KEYS, problem.x)
    found = {("ours", name): partial(ours, problem, solver) for name, solver in OURS.items()}
    found[BASE, "SciPy RK45 1e-5, t"] = partial(scipy_rk45, problem, probe)
    found["diffrax's recipe", "tsit5 1e-5, t, a step size a batch"] = partial(
        diffrax_plain, problem, probe
    )
    return found | torch_methods(problem, probe)


def measure(problem: Problem, repeats: int) -> list[dict]:
    """Return the rows of all methods on a problem."""
    made = {name: (make(True), make(False)) for name, make in methods(problem).items()}
    seconds = interleaved({name: pair[1].run for name, pair in made.items()}, repeats)
    rows, dims = [], problem.x[0].size
    for (source, method), (exact, probed) in made.items():
        found, cost = exact.run(), probed.run()
        error = np.mean(np.abs(found.logp - problem.truth)) / dims
        rows.append(
            {
                "problem": problem.name,
                "method": method,
                "source": source,
                "error_nats_per_dim": float(error),
                "passes": float(cost.passes),
                "nfe": float(cost.nfe),
                "seconds": seconds[source, method],
                "peak_mib": sum(map(memory, probed.programs)) if probed.programs else None,
            }
        )
    (base,) = (row for row in rows if row["source"] == BASE)
    return [{**row, "better": better(row, base)} for row in rows]


def better(row: dict, base: dict) -> bool:
    """Whether the error is at most that of `base`, with a third of its time and half its passes."""
    return (
        row["error_nats_per_dim"] <= base["error_nats_per_dim"]
        and row["seconds"] <= base["seconds"] / 3.0
        and row["passes"] <= base["passes"] / 2.0
    )


def memory(program) -> float:
    """Return the MiB that a compiled program allocates besides its arguments."""
    found = program.memory_analysis()
    return (found.temp_size_in_bytes + found.output_size_in_bytes) / 2**20


def show(rows: list[dict]) -> None:
    (base,) = (row for row in rows if row["source"] == BASE)
    print(f"\n{rows[0]['problem']}")
    for row in rows:
        kept = "" if row["peak_mib"] is None else f"{row['peak_mib']:8.2f} MiB"
        print(
            f"{'*' if row['better'] else ' '} {row['source']:<19}{row['method']:<36}"
            f"{row['error_nats_per_dim']:9.1e}{row['nfe']:6.0f}{row['passes']:6.0f}"
            f"{row['seconds']:9.4f} s  {row['seconds'] / base['seconds']:6.3f}{kept}",
            flush=True,
        )


def compare(makers: list[Callable[[], Problem]], repeats: int) -> list[dict]:
    """Print and return the rows of all problems."""
    print("source, method, |error| nats/dim, evaluations, passes, seconds, of score_sde's, memory")
    rows = []
    for make in makers:
        found = measure(make(), repeats)
        show(found)
        rows += found
    return rows


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tables", nargs="*", help=f"of {', '.join(TABLES)}; all by default")
    parser.add_argument("--json", type=Path, help="where all rows are written")
    parser.add_argument("--plot", help="where a picture of the slopes is written")
    parser.add_argument("--only", default="", help='problems with this in their name: "network"')
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--config", default="configs/digits_vp.py", type=Path)
    parser.add_argument("--workdir", default="runs/digits", type=Path)
    given = parser.parse_args(arguments)
    if unknown := set(given.tables) - set(TABLES):
        parser.error(f"there is no table {', '.join(unknown)}; there are {', '.join(TABLES)}.")
    known = {f"gaussian {law}": partial(gaussian, law) for law in LAWS}
    known |= {f"mixture {law}": partial(mixture, law) for law in ("vp", "ve", "edm")}
    trained = []
    if (given.workdir / "checkpoints").is_dir():
        trained = [partial(network, given.config, given.workdir.absolute())]
    few, found = [partial(gaussian, "vp"), partial(mixture, "vp")], {}
    rough = [partial(make, known=False) for make in trained]
    makers = [make for name, make in known.items() if given.only in name]
    makers += trained if given.only in "network" else []
    for table in given.tables or TABLES:
        if table == "methods":
            found[table] = compare(makers, given.repeats)
        elif table == "slopes":
            found[table] = checks.slopes()
        elif table == "probes":
            found[table] = [row for make in few for row in checks.probes(make())]
        else:
            found[table] = [row for make in few + rough for row in checks.mates(make())]
    if given.json:
        given.json.write_text(json.dumps(found, indent=1) + "\n")
    if given.plot and "slopes" in found:
        checks.plot(found["slopes"], given.plot)


if __name__ == "__main__":
    main()
