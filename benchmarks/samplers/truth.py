"""How far are samplers and likelihood from the truth, where the truth is a formula?

    python -m benchmarks.samplers.truth [orders] [moments] [likelihood]

prints the orders of convergence of the ODE samplers, the moments of the stochastic samplers at 10
to 2000 steps, and the errors of log p, all with the exact score. The closed forms are those of the
tests.
"""

import argparse
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

import recursion
from closed_form import Gaussian, Mixture

import samplers
from likelihood import log_likelihood
from likelihood.divergence import exact
from sde_lib import EDM, VE, VP, Flow, SubVP

KEY = jax.random.key(0)
LAWS = {"VP": VP(), "sub-VP": SubVP(), "VE": VE(), "EDM": EDM(), "flow": Flow(t1=0.95)}
ODE_METHODS = {
    "DDIM": samplers.ddim,
    "Heun": samplers.heun,
    "Euler": lambda path: samplers.euler_maruyama(path, probability_flow=True),
    "reverse diffusion": lambda path: samplers.reverse_diffusion(path, probability_flow=True),
}
SDE_METHODS = {
    "Euler-Maruyama": (samplers.euler_maruyama, recursion.step_euler_maruyama),
    "reverse diffusion": (samplers.reverse_diffusion, recursion.step_reverse_diffusion),
    "ancestral": (samplers.ancestral, recursion.step_posterior),
    "DDIM, eta 1": (lambda path: samplers.ddim(path, eta=1.0), recursion.step_ddim(1.0)),
}
STEPS = (10, 50, 1000, 2000)
DATA = Gaussian(np.array([0.4, -0.7]), np.array([[0.5, 0.2], [0.2, 0.3]]))


def row(name: str, values, form: str) -> None:
    print(f"  {name:<24}" + "".join(f"{format(value, form):>14}" for value in values))


def orders() -> None:
    """Print the order of the RMS distance to the closed-form flow map, from N = 256 to 512 steps.

    The data are correlated Gaussian. `python -m benchmarks.samplers.orders` has the other methods.
    """
    print("\norder of convergence, N = 256 to 512")
    row("", LAWS, "")
    for name, make in ODE_METHODS.items():
        row(name, [order(law, DATA, make) for law in LAWS.values()], ".2f")


def order(law, data, make) -> float:
    eps = max(1e-3, law.t0)
    x = law.prior_std() * jnp.asarray(np.random.default_rng(0).standard_normal((64, 2)))
    truth = data.flow_map(law, x, law.t1, eps)

    def error(steps: int) -> float:
        ts = samplers.make_grid("uniform_lam", law, steps, eps)
        run = jax.jit(lambda x: samplers.sample(KEY, data.predict(law), make(law), x, ts).x)
        return float(jnp.sqrt(jnp.mean((run(x) - truth) ** 2)))

    return float(np.log2(error(256) / error(512)))


def moments(n: int = 20_000) -> None:
    """Print sample mean and variance minus their expectation, in standard errors.

    Then print the expected variance relative to that of the data, in per cent: the error of a
    finite number of steps.
    """
    print(f"\nmoments of {n} samples: (mean, variance) less the recursion's, in standard errors;")
    print("the recursion's variance against the data's, in per cent")
    row("", [f"N = {steps}" for steps in STEPS], "")
    for law_name, key in (("VP", "vp"), ("sub-VP", "subvp"), ("VE", "ve")):
        for name, (make, step) in SDE_METHODS.items():
            found = [moment(LAWS[law_name], key, make, step, steps, n) for steps in STEPS]
            row(f"{law_name} {name}", [f"{m:+.1f} {v:+.1f}" for m, v, _ in found], "")
            row("", [f"{bias:+.2f} %" for _, _, bias in found], "")


def moment(law, key: str, make, step, steps: int, n: int) -> tuple[float, float, float]:
    predict = Gaussian.scalar(recursion.MEAN, recursion.STD).predict(law)
    ts = samplers.make_grid("uniform", law, steps, recursion.EPS[key])
    start, noise = jax.random.split(jax.random.key(steps))
    x = law.prior_sample(start, (n, 1))
    x = jax.jit(lambda x: samplers.sample(noise, predict, make(law), x, ts).x)(x)
    x = np.asarray(x, np.float64)
    mean, var = recursion.recursion(key, np.asarray(ts, np.float64), step)
    in_errors = (x.mean() - mean) / (var / n) ** 0.5, (x.var() / var - 1.0) / (2 / n) ** 0.5
    return *in_errors, 100.0 * (var / recursion.data_moments(key)[1] - 1.0)


def likelihood() -> None:
    """Print the largest error of log p over 64 draws in 3 dimensions, in nats per dimension."""
    data = {
        "Gaussian": Gaussian(np.array([0.4, -0.7, 0.1]), np.diag([0.5, 0.2, 0.8])),
        "mixture": Mixture(
            np.array([0.3, 0.7]),
            np.array([[-1.0, 0.5, 0.0], [0.8, -0.3, 0.4]]),
            np.array([0.3, 0.5]),
        ),
    }
    print("\nlargest error of log p, nats a dimension; exact score and trace, density known at t1")
    row("", [*LAWS][:4], "")
    for name, law_of_data in data.items():
        for dtype, tolerance in (("float64", 1e-6), ("float32", 1e-5)):
            found = [logp_error(law, law_of_data, dtype, tolerance) for law in [*LAWS.values()][:4]]
            row(f"{name}, {dtype}, {tolerance:g}", found, ".1e")


def logp_error(law, data, dtype, tolerance: float) -> float:
    rng = np.random.default_rng(0)
    a, c = (float(v) for v in law.coeffs(jnp.asarray(law.t0)))
    x0 = data.draw(rng, 64)
    x = (a * x0 + c * rng.standard_normal(x0.shape)).astype(dtype)
    variable = "lam" if isinstance(law, EDM) else "t"
    solver = samplers.Solver("tsit5", tolerance, tolerance, variable=variable)
    end = lambda y: data.logp(law, y, law.t1)

    @jax.jit
    def run(x):
        predict = data.predict(law)
        return log_likelihood(
            KEY, law, predict, x, divergence=exact(), solver=solver, prior_logp=end
        ).logp

    with jax.enable_x64(dtype == "float64"):
        found = np.asarray(run(jnp.asarray(x)), np.float64)
    truth = np.asarray(data.logp(law, jnp.asarray(x, jnp.float64), law.t0))
    return float(np.max(np.abs(found - truth))) / x.shape[1]


def main() -> None:
    tables = {"orders": orders, "moments": moments, "likelihood": likelihood}
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tables", nargs="*", help=f"of {', '.join(tables)}; all by default")
    asked = parser.parse_args().tables or list(tables)
    if unknown := set(asked) - set(tables):
        parser.error(f"there is no table {', '.join(unknown)}; there are {', '.join(tables)}.")
    for name in asked:
        jax.config.update("jax_enable_x64", name != "moments")
        tables[name]()


if __name__ == "__main__":
    main()
