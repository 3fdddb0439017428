"""What does a gradient of log p with respect to x cost, and how exact is it?

    python -m benchmarks.speed.gradients [--repeats 5]

Memory and seconds are those of a perceptron of width 2048 on 64 dimensions, with 32 examples and
one Rademacher probe. Memory is XLA's plan without the arguments. The error is measured on
correlated Gaussian data of 64 dimensions with the exact trace, where the gradient is the score at
eps: RMS of the difference, divided by the RMS of the score.
"""

import argparse
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.likelihood.problem import KEYS, Problem, gaussian
from benchmarks.likelihood.speed import memory
from benchmarks.speed.timing import interleaved
from likelihood import DIVERGENCES, Adams, log_likelihood
from samplers import Solver
from sde_lib import parametrize

MOST = 256
SOLVERS = {
    "no gradient, tsit5 1e-5": Solver(variable="angle"),
    "checkpoint, tsit5 1e-5": Solver(variable="angle", max_steps=MOST, adjoint="checkpoint"),
    "backsolve, tsit5 1e-5": Solver(variable="angle", max_steps=MOST, adjoint="backsolve"),
    "backsolve, reversible_heun 1e-3": Solver(
        "reversible_heun", 1e-3, 1e-3, 4096, "angle", adjoint="backsolve"
    ),
    "no gradient, adams 64": Adams(64),
    "adams 64": Adams(64),
}


def wide() -> Problem:
    """Return a problem whose network has hidden layers far larger than its states."""
    problem = gaussian("vp")
    keys = jax.random.split(jax.random.key(0), 3)
    first, last = (
        jax.random.normal(keys[0], (64, 2048)) / 8.0,
        jax.random.normal(keys[1], (2048, 64)) / 45.0,
    )
    middle = jax.random.normal(keys[2], (2048, 2048)) / 45.0
    network = lambda x, t: jnp.tanh(jnp.tanh(x @ first) @ middle) @ last
    return problem._replace(predict=parametrize("eps", problem.path, network))


def gradient(problem: Problem, solver: Solver | Adams, exact: bool, of: bool = True) -> Callable:
    """Return the compiled gradient of the sum of log p over examples; the sum if `of` is False."""
    divergence = DIVERGENCES["exact" if exact else "rademacher"](1)

    def total(x):
        result = log_likelihood(
            KEYS, problem.path, problem.predict, x,
            divergence=divergence, solver=solver, prior_logp=problem.end,
        )  # fmt: skip
        return jnp.sum(result.logp)

    return jax.jit(jax.grad(total) if of else total).lower(problem.x).compile()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    network, known = wide(), gaussian("vp")
    score = np.asarray(known.predict(known.x, jnp.asarray(known.path.t0)).score)
    programs = {
        name: gradient(network, solver, False, "no gradient" not in name)
        for name, solver in SOLVERS.items()
    }
    seconds = interleaved({n: lambda p=p: p(network.x) for n, p in programs.items()}, repeats)
    for name, program in programs.items():
        line = f"{name:<34}{memory(program):8.1f} MiB{seconds[name]:8.3f} s"
        if "no gradient" not in name:
            error = np.asarray(gradient(known, SOLVERS[name], True)(known.x)) - score
            line += f"   error {np.sqrt(np.mean(error**2) / np.mean(score**2)):.1e}"
        print(line, flush=True)


if __name__ == "__main__":
    main()
