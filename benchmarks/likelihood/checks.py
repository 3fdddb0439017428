"""Measured properties of log p: orders, unbiased probes, independence of the rest of the batch.

`slopes` measures the error on Gaussian data over the tolerance or the number of steps, in float64,
and its slope. `probes` measures whether estimates of the divergence are right on average. `mates`
measures whether log p of an example depends on the other examples of its batch.
`benchmarks.likelihood` runs these tables.
"""

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from benchmarks.likelihood.problem import EXAMPLES, KEYS, Problem, gaussian
from likelihood import DIVERGENCES, Adams, log_likelihood
from samplers import Solver
from sde_lib import example_keys

TOLERANCES = (1e-3, 1e-4, 1e-5, 1e-6, 1e-7)
ADAPTIVE = [(method, variable) for method in ("tsit5", "dopri8") for variable in ("t", "angle")]
STEPS = (24, 48, 96, 192)
ORDERS = (2, 3, 4)
FLOOR = 1e-13  # nats per dimension; errors below it are rounding of float64
# Estimators of the divergence, with the number of probes in a draw.
ESTIMATORS = {"rademacher": 1, "gaussian": 1, "orthogonal": 4, "hutch_pp": 2}
DRAWS = 1000
SAME = {"tsit5 1e-5, angle": Solver(variable="angle"), "adams 4, 47 steps, angle": Adams(47)}
OUTLIER = 30.0


def logp(problem: Problem, x, keys, solver, divergence=("exact", 1)):
    """Return `log_likelihood` of the problem's network."""
    name, count = divergence
    return log_likelihood(
        keys, problem.path, problem.predict, x,
        divergence=DIVERGENCES[name](count), solver=solver, prior_logp=problem.end,
    )  # fmt: skip


def slope(sizes, errors) -> float:
    """Return the least-squares slope of log error over log size; nan for fewer than two points."""
    if len(sizes) < 2:
        return float("nan")
    return float(np.polyfit(np.log(sizes), np.log(errors), 1)[0])


def slopes(law: str = "vp") -> list[dict]:
    """Print and return mean errors in nats per dimension, with the exact trace, and their slopes.

    The slope over tolerances leaves out tolerances at which all steps have the longest length
    allowed, that is, at which the number of evaluations is the least.
    """
    with jax.enable_x64(True):
        problem = gaussian(law)
        problem = problem._replace(x=jnp.asarray(problem.x, jnp.float64))
        rows = [over_tolerances(problem, *which) for which in ADAPTIVE]
        rows += [over_steps(problem, order) for order in ORDERS]
    print(f"\n{problem.name}, float64: |error| in nats/dim, and its slope")
    for row in rows:
        cells = "".join(f"{s:>8g}:{e:8.1e}" for s, e in zip(row["sizes"], row["errors"]))
        print(f"  {row['method']:<16}{cells}   slope {row['slope']:5.2f}", flush=True)
    return rows


def error(problem: Problem, found) -> float:
    return float(np.mean(np.abs(np.asarray(found) - problem.truth))) / problem.x[0].size


def over_tolerances(problem: Problem, method: str, variable: str) -> dict:
    @jax.jit  # once for all tolerances
    def run(x, tol):
        return logp(problem, x, KEYS, Solver(method, tol, tol, variable=variable))

    found = [run(problem.x, tol) for tol in TOLERANCES]
    nfe = [float(np.mean(result.nfe)) for result in found]
    errors = [error(problem, result.logp) for result in found]
    free = [i for i, n in enumerate(nfe) if n > min(nfe) and errors[i] > FLOOR]
    fitted = slope([TOLERANCES[i] for i in free], [errors[i] for i in free])
    name = f"{method}, {variable}"
    return {
        "method": name, "sizes": TOLERANCES, "errors": errors, "nfe": nfe,
        "fitted": [TOLERANCES[i] for i in free], "slope": fitted,
    }  # fmt: skip


def over_steps(problem: Problem, order: int) -> dict:
    run = lambda n: jax.jit(lambda x: logp(problem, x, KEYS, Adams(n, order)).logp)(problem.x)
    errors = [error(problem, run(n)) for n in STEPS]
    fitted = [i for i, e in enumerate(errors) if e > FLOOR]
    return {
        "method": f"adams {order}, angle", "sizes": STEPS, "errors": errors,
        "nfe": [n + 1 for n in STEPS], "fitted": [STEPS[i] for i in fitted],
        "slope": -slope([STEPS[i] for i in fitted], [errors[i] for i in fitted]),
    }  # fmt: skip


def probes(problem: Problem, count: int = DRAWS) -> list[dict]:
    """Compare log p by probes with log p by the exact trace, over `count` draws.

    `bias` is the mean difference over draws and examples, divided by its standard error, which
    comes from the spread over draws. `square` is the mean over examples of the squared difference
    of the mean over draws, in units of the example's squared standard error; it is 1 without bias.
    `spread` is the standard deviation of a draw, in nats. The solver takes fixed steps, so its
    error is the same with every probe and cancels.
    """
    solver, rows = Adams(31), []
    truth = np.asarray(jax.jit(lambda x: logp(problem, x, KEYS, solver).logp)(problem.x))
    print(f"\n{problem.name}: mean over {count} draws less the exact trace, in standard errors")
    for name, number in ESTIMATORS.items():

        @jax.jit  # x is an argument, so that nothing is computed while it compiles
        def draws(x, seeds, which=(name, number)):
            keys = lambda seed: example_keys(seed, jnp.arange(EXAMPLES))
            return jax.lax.map(lambda seed: logp(problem, x, keys(seed), solver, which).logp, seeds)

        found = np.asarray(draws(problem.x, jnp.arange(count)), np.float64)
        row = {"problem": problem.name, "estimator": name, "probes": number, **biases(found, truth)}
        print(
            f"  {name:<12}{number:>2} a draw: all examples {row['bias']:+.2f}, mean square of one "
            f"{row['square']:.2f}, spread of a draw {row['spread']:.2f} nats",
            flush=True,
        )
        rows.append(row)
    return rows


def biases(found: np.ndarray, truth: np.ndarray) -> dict:
    """Return `bias`, `square` and `spread` (see `probes`) of draws `(n, B)`; truth is `(B,)`."""
    off, count = found - truth, len(found)
    standard = lambda v: np.mean(v, axis=0) / (np.std(v, axis=0, ddof=1) / count**0.5)
    return {
        "bias": float(standard(np.mean(off, axis=1))),
        "square": float(np.mean(standard(off) ** 2)),
        "spread": float(np.mean(np.std(off, axis=0, ddof=1))),
    }


def mates(problem: Problem) -> list[dict]:
    """Print and return the largest change of log p, in nats, by the batch; see `changes`."""
    rows = []
    print(f"\n{problem.name}: largest change of log p in nats, by what an example is beside")
    for name, solver in SAME.items():
        largest = {k: float(np.max(np.abs(v))) for k, v in changes(problem, solver).items()}
        cells = ", ".join(f"{k} {v:.1e}" for k, v in largest.items())
        print(f"  {name:<26}{cells}", flush=True)
        rows.append({"problem": problem.name, "method": name, **largest})
    return rows


def changes(problem: Problem, solver) -> dict[str, np.ndarray]:
    """Return how log p of an example changes with the rest of its batch, in nats.

    Each example has a Rademacher probe from its own key. The change is log p in the changed batch
    minus log p in the original batch. The changed batches are: the batch in reverse order, the
    batch with an outlier, a batch of zeros except for the example (all three use one compiled
    program), and a batch of the example alone (another program).
    """
    run = jax.jit(lambda x, keys: logp(problem, x, keys, solver, ("rademacher", 1)).logp)
    of, x = lambda x, keys: np.asarray(run(x, keys)), problem.x
    whole, some = of(x, KEYS), range(0, len(x), 4)
    padded = [of(jnp.zeros_like(x).at[i].set(x[i]), KEYS)[i] for i in some]
    alone = [of(x[i : i + 1], KEYS[i : i + 1])[0] for i in some]
    return {
        "reversed": of(x[::-1], KEYS[::-1])[::-1] - whole,
        "outlier": (of(x.at[0].multiply(OUTLIER), KEYS) - whole)[1:],
        "padded": padded - whole[::4],
        "alone": alone - whole[::4],
    }


def plot(rows: list[dict], path: str) -> None:
    """Draw the errors of `slopes` over tolerances and over steps, and save the figure."""
    figure = Figure(figsize=(9, 4))
    panels = figure.subplots(1, 2, sharey=True)
    for row in rows:
        axes = panels[int("adams" in row["method"])]
        label = f"{row['method']}: {row['slope']:.2f}"
        axes.loglog(row["sizes"], row["errors"], marker="o", label=label)
    panels[0].set(xlabel="tolerance", ylabel="|error| of log p, nats per dimension")
    panels[1].set(xlabel="steps")
    panels[1].set_xticks(STEPS, [str(n) for n in STEPS])
    panels[1].minorticks_off()
    for axes, where in zip(panels, ("upper left", "lower left")):
        if axes.lines:
            axes.legend(title="slope", loc=where)
    figure.savefig(path, dpi=150, bbox_inches="tight")
