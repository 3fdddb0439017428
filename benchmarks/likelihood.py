"""How near the truth is log p, after how many passes of the network, how many seconds, how much
memory? Ours beside the scheme of score_sde and Diffrax's plain recipe.

    python -m benchmarks.likelihood [--json OUT] [--repeats 5]
                                    [--config configs/digits_vp.py --workdir runs/digits]

Problems whose score is exact, 32 examples drawn from the law at eps, D = 64: `gaussian`, with the
covariance of the digits; `mixture`, N(x_i, 0.2^2) over 512 digits; each under VP, VE and EDM. And
`network`, a trained one, where --workdir has it. Error: the mean over examples of |log p - truth|
in nats per dimension, by the exact trace; the truth is a formula, for the network a solve to 1e-7.
Seconds: the median of interleaved runs with one Rademacher probe, compiled before. Memory: what XLA
plans for one call of a compiled program, its arguments without. A pass is one evaluation of the
network, alone or with its derivative.
"""

import argparse
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.datasets import load_digits

from benchmarks.likelihood_peers import Method, Run, diffrax_plain, scipy_rk45
from benchmarks.timing import interleaved
from likelihood import DIVERGENCES, Adams, log_likelihood
from samplers import Solver
from sde_lib import EDM, VE, VP, AffinePath, example_keys
from sde_lib.empirical import empirical_logp, empirical_predict, points
from sde_lib.gaussian import gaussian_predict, moments
from sde_lib.noise import rademacher_like
from sde_lib.prediction import PredictFn

LAWS = {"vp": VP(), "ve": VE(), "edm": EDM()}
STD = 0.2
EXAMPLES = 32
KEYS = example_keys(0, jnp.arange(EXAMPLES))

# Ours: the name, and the solver.
OURS = {
    **{f"adams 4, {n} steps, angle": Adams(n) for n in (23, 31, 47, 63, 95)},
    "adams 4, 63 steps, lam": Adams(63, variable="lam"),
    "tsit5 1e-3, angle": Solver(rtol=1e-3, atol=1e-3, variable="angle"),
    "tsit5 1e-5, angle": Solver(variable="angle"),
    "tsit5 1e-5, lam": Solver(variable="lam"),
    "tsit5 1e-5, t": Solver(),
    "dopri8 1e-5, angle": Solver("dopri8", variable="angle"),
}


class Problem(NamedTuple):
    """A law, its network, examples of the law at eps, the truth in nats `(B,)`, and the density at
    t1 `end`: the true one, so that no method is charged for the prior."""

    name: str
    path: AffinePath
    predict: PredictFn
    x: jax.Array
    truth: np.ndarray
    end: Callable[[jax.Array], jax.Array]


def noised(path: AffinePath, data: np.ndarray) -> jax.Array:
    """Examples of the law at t0, where a likelihood begins."""
    a, _, c = (float(v) for v in path.coeffs(jnp.asarray(path.t0)))
    z = np.random.default_rng(1).standard_normal(data.shape)
    return jnp.asarray(a * data + c * z, jnp.float32)


def gaussian(law: str) -> Problem:
    """N(mean, covariance) of the digits, with 0.05^2 added to every variance."""
    path, digits = LAWS[law], load_digits().data / 8.0 - 1.0
    found = moments(digits)
    cov = np.cov(digits.T, bias=True) + 0.05**2 * np.eye(64)
    values, vectors = np.linalg.eigh(cov)
    model = found._replace(U=vectors[:, ::-1], L=values[::-1])
    rng = np.random.default_rng(0)
    x = noised(path, rng.multivariate_normal(found.mean, cov, EXAMPLES))

    def logp(y, t):
        with jax.ensure_compile_time_eval():
            a, _, c = (float(v) for v in path.coeffs(jnp.asarray(t)))
        spread = a**2 * values + c**2
        gap = (y - a * found.mean) @ vectors
        return -0.5 * (gap**2 / spread + np.log(2.0 * np.pi * spread)).sum(axis=1)

    truth, end = logp(np.float64(x), path.t0), partial(logp, t=path.t1)
    return Problem(f"gaussian {law}", path, gaussian_predict(path, model), x, truth, end)


def mixture(law: str) -> Problem:
    path, digits = LAWS[law], load_digits().data[:512] / 8.0 - 1.0
    rng = np.random.default_rng(0)
    drawn = digits[rng.integers(0, 512, EXAMPLES)] + STD * rng.standard_normal((EXAMPLES, 64))
    x, data = noised(path, drawn), points(digits, std=STD)
    with jax.enable_x64(True):
        wide = points(digits, std=STD)
        truth = np.asarray(empirical_logp(path, wide, jnp.asarray(x, jnp.float64), path.t0))
    end = lambda y: empirical_logp(path, data, y, jnp.asarray(path.t1))
    return Problem(f"mixture {law}", path, empirical_predict(path, data), x, truth, end)


def network(config: Path, workdir: Path) -> Problem:
    """The averaged network of a run, on its test data, dequantised."""
    import runpy

    from build import build
    from training.run import restore_ema

    experiment = build(runpy.run_path(str(config))["get_config"]())
    _, params = restore_ema(experiment, workdir, None)
    numbers = np.arange(EXAMPLES)
    keys = example_keys(0, jnp.asarray(numbers))
    x = experiment.bits_scaler.to_model(keys, experiment.test.fetch(numbers))
    path, predict = experiment.path, experiment.predict(params)
    fine = Solver("dopri8", 1e-7, 1e-7, variable="angle")
    name = f"network {experiment.config.sde.name}"
    problem = Problem(name, path, predict, x, np.zeros(EXAMPLES), path.prior_logp)
    return problem._replace(truth=ours(problem, fine, exact=True).run().logp)


def ours(problem: Problem, solver: Solver | Adams, exact: bool) -> Method:
    """`log_likelihood` as it is called."""
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
    """By `(source, method)` a function of whether the trace is exact."""
    probe = rademacher_like(KEYS, problem.x)
    found = {("ours", name): partial(ours, problem, solver) for name, solver in OURS.items()}
    found["score_sde's scheme", "SciPy RK45 1e-5, t"] = partial(scipy_rk45, problem, probe)
    found["diffrax's recipe", "tsit5 1e-5, t, a step size a batch"] = partial(
        diffrax_plain, problem, probe
    )
    return found


def measure(problem: Problem, repeats: int) -> list[dict]:
    """Rows of all methods on a problem."""
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
                "peak_mib": sum(memory(program) for program in probed.programs),
            }
        )
    return rows


def memory(program) -> float:
    """MiB that a compiled program allocates besides its arguments."""
    found = program.memory_analysis()
    return (found.temp_size_in_bytes + found.output_size_in_bytes) / 2**20


def show(rows: list[dict]) -> None:
    base = next(row for row in rows if row["source"] == "score_sde's scheme")
    print(f"\n{rows[0]['problem']}")
    for row in rows:
        print(
            f"  {row['source']:<19}{row['method']:<36}{row['error_nats_per_dim']:9.1e}"
            f"{row['nfe']:6.0f}{row['passes']:6.0f}{row['seconds']:9.4f} s"
            f"  {row['seconds'] / base['seconds']:6.3f}{row['peak_mib']:8.2f} MiB",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--config", default="configs/digits_vp.py", type=Path)
    parser.add_argument("--workdir", default="runs/digits", type=Path)
    given = parser.parse_args()
    print("source, method, |error| nats/dim, evaluations, passes, seconds, of score_sde's, memory")
    rows = []
    makers = [partial(make, law) for make in (gaussian, mixture) for law in LAWS]
    if (given.workdir / "checkpoints").is_dir():
        makers.append(partial(network, given.config, given.workdir.absolute()))
    for make in makers:
        found = measure(make(), given.repeats)
        show(found)
        rows += found
    if given.json:
        Path(given.json).write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
