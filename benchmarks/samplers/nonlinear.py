"""How far should restoration-degradation look back, and does it sample laws that are not affine?

    python -m benchmarks.samplers.nonlinear

Restoration-degradation (Chen, Daras, Dimakis 2023) runs with exact scores, in one dimension; the
data have two peaks. The first table is for the affine VP law from t = 1 to 0.05 in steps even in t.
It has the RMS distance to the end of the flow, for look-backs ell that are a number of steps h or a
share of t (ell = t is DDIM). The other tables are for two laws with a cubic drift, by their Euler
kernel. They have the 1-Wasserstein distance of the samples to the data. The starts are quantiles of
the law at t1, or of the law's prior.
"""

import jax
import jax.numpy as jnp
import numpy as np

from exact import fokker_planck
from samplers import (
    euler_restoration,
    heun,
    make_grid,
    number_of_steps,
    restoration_degradation,
    sample,
)
from sde_lib import VP, DoubleWell, score_only
from sde_lib.prediction import from_score

KEY = jax.random.key(0)
SIZES = (50, 200, 800, 3200)
WEIGHTS, MEANS, STD = np.array([0.4, 0.6]), np.array([-1.2, 0.9]), 0.35
GRID = np.linspace(-4.0, 4.0, 1601)
LOOK_BACKS = {
    "2 h": number_of_steps(2),
    "8 h": number_of_steps(8),
    "32 h": number_of_steps(32),
    "t / 4": 0.25,
    "t / 2": 0.5,
    "t": 1.0,
}
EULER = {
    "ell = sqrt(h) / 2": (euler_restoration, {}),
    "ell = 2 h": (euler_restoration, {"look_back": number_of_steps(2)}),
    "ell = h, no root": (euler_restoration, {"look_back": number_of_steps(1), "root": False}),
    "Heun on the flow": (heun, {}),
}


def log_density(x, a=1.0, c=0.0):
    """Return the log density of `a x0 + c z` for each number in x `(B, 1)`.

    a and c are numbers, or arrays with one number per example.
    """
    a, c = (jnp.asarray(v)[..., None, None] for v in (a, c))
    v = a**2 * STD**2 + c**2
    terms = jnp.log(WEIGHTS) - 0.5 * (x[..., None] - a * MEANS) ** 2 / v - 0.5 * jnp.log(v)
    return jax.nn.logsumexp(terms, axis=-1)


def print_row(name: str, values, width: int = 10) -> None:
    print(f"{name:>22}" + "".join(f"{value:{width}.4f}" for value in values), flush=True)


def head(title: str) -> None:
    print(f"\n{title}\n{'steps':>22}" + "".join(f"{n:>10}" for n in SIZES))


def affine() -> None:
    """Print the table of the affine law, whose kernel is exact."""
    law = VP()

    def score(x, t):
        a, c = law.coeffs(t)
        return jax.grad(lambda x: jnp.sum(log_density(x, a, c)))(x)

    predict = from_score(law, score)
    x = jnp.asarray(np.random.default_rng(0).standard_normal((2000, 1)))
    run = lambda method, ts: jax.jit(lambda x: sample(KEY, predict, method, x, ts).x)(x)
    end = run(heun(law), make_grid("uniform_lam", law, 4000, 0.05))
    head("affine law, exact kernel: RMS distance to the end of the flow, by look-back ell")
    for name, look_back in LOOK_BACKS.items():
        ends = [
            run(restoration_degradation(law, look_back), jnp.linspace(1.0, 0.05, n + 1))
            for n in SIZES
        ]
        print_row(name, [jnp.sqrt(jnp.mean((y - end) ** 2)) for y in ends])


def quantiles(logp: np.ndarray) -> np.ndarray:
    p = np.exp(logp - np.max(logp))
    cdf = np.concatenate([[0.0], np.cumsum(p[1:] + p[:-1])])
    return np.interp((np.arange(2000) + 0.5) / 2000, cdf / cdf[-1], GRID)[:, None]


def not_affine(law: DoubleWell, title: str, from_prior: bool) -> None:
    times = law.t1 * np.linspace(0.0, 1.0, 161) ** 2
    density = fokker_planck(law, lambda x: np.asarray(log_density(x)), GRID, times)
    predict, data = score_only(law, density.score), quantiles(density.table[0])
    x = quantiles(np.asarray(law.log_weight(GRID)) if from_prior else density.table[-1])
    distance = lambda y: np.mean(np.abs(np.sort(np.asarray(y), axis=0) - data))
    head(f"{title}: W1 to the data, {distance(x):.3f} before")
    for name, (make, kwargs) in EULER.items():
        row = []
        for n in SIZES:
            ts = jnp.linspace(law.t1, 0.0, n + 1)
            method = make(law, **kwargs)
            row.append(distance(jax.jit(lambda x: sample(KEY, predict, method, x, ts).x)(x)))  # noqa: B023
        print_row(name, row)


def main() -> None:
    with jax.enable_x64(True):
        affine()
        cubic = DoubleWell(linear=0.0, t1=1.0)
        not_affine(cubic, "dx = -x^3 dt + dw to t1 = 1", from_prior=False)
        not_affine(DoubleWell(), "dx = (x - x^3) dt + dw to t1 = 10", from_prior=True)


if __name__ == "__main__":
    main()
