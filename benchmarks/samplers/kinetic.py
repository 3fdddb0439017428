"""How much does the path of least kinetic energy save, in energy and in Euler steps?

    python -m benchmarks.samplers.kinetic [energies] [digits] [--iterations 2000] [--seeds 2]

`energies` prints the kinetic energy of the marginal field along five paths, for sets drawn from a
Gaussian and for the digits. `digits` trains a small perceptron by flow matching on the digits, the
same one for three paths. It prints the sliced 2-Wasserstein distance between the 1500 training
digits and as many samples, drawn in a few even Euler steps. (Shaul et al. 2023, arXiv 2306.06626,
section 5.)
"""

import argparse
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct
from jax import Array
from scipy.interpolate import PchipInterpolator

from data import Scaler
from data.digits import load
from exact.separation import Separation, estimate
from models.mlp import MLP
from samplers import euler_maruyama, make_grid, sample
from sde_lib import VP, AffinePath, Coeffs, Flow, SubVP, parametrize
from sde_lib.kinetic import Kinetic, energy
from sde_lib.prediction import kinds, prediction_of

ENDS = (1e-6, 1.0 - 1e-6)
SIZES = ((200, 2), (200, 64), (50, 784))
STEPS = (4, 6, 8, 10, 100)
BATCH = 128


@struct.dataclass
class Trigonometric(AffinePath):
    """The law with `a = cos(pi t / 2)` and `c = sin(pi t / 2)`."""

    t0: float = ENDS[0]
    t1: float = ENDS[1]

    def coeffs(self, t: Array) -> Coeffs:
        angle = 0.5 * jnp.pi * t
        return Coeffs(jnp.cos(angle), jnp.sin(angle))

    def t_of_lam(self, lam: Array) -> Array:
        return jnp.arctan(jnp.exp(-lam)) / (0.5 * jnp.pi)


def digits() -> np.ndarray:
    """Return the training digits as a network sees them, divided by their RMS, `(1500, 64)`."""
    train = load("train")
    raw = jnp.asarray(train.fetch(np.arange(train.size)))
    x = np.asarray(Scaler(train.levels, True, True).to_model(jax.random.key(0), raw), np.float64)
    return x.reshape(train.size, -1) / np.sqrt(np.mean(x**2))


def energies() -> None:
    """Print the energies of all paths.

    Energies of VP and sub-VP are from t0 = 1e-5, and grow like log(1 / t0) / 40; those of the other
    paths are from end to end. VE is left out: its state grows to 50, at an energy of about 10^4.
    """
    print("\nkinetic energy, a dimension; off line: max |a - (1 - t)| of the optimum")
    columns = ("L", "optimal", "straight", "trig", "VP", "sub-VP", "off line")
    print(f"{'n, D':>16}" + "".join(f"{name:>10}" for name in columns))
    for n, dims in SIZES:
        x = np.random.default_rng(0).standard_normal((n, dims))
        print_energies(f"{n}, {dims}", estimate(x - x.mean(0)))
    print_energies("digits", estimate(digits(), draws=20_000))
    print_energies("digits, centred", estimate(digits() - digits().mean(0), draws=20_000))


def print_energies(name: str, found: Separation) -> None:
    gamma = PchipInterpolator(found.theta, np.clip(found.gamma, 0.0, 1.0))
    with jax.enable_x64(True):
        best = Kinetic.from_gamma(*found[:2], 1.0, *ENDS, floor=1e-4)
        paths = (best, Flow(*ENDS), Trigonometric(), VP(), SubVP())
        t = jnp.linspace(*ENDS, 501)
        off = float(jnp.max(jnp.abs(best.coeffs(t).a - (1.0 - t))))
        row = (best.table.length, *(energy(path, gamma) for path in paths), off)
    print(f"{name:>16}" + "".join(f"{value:10.4f}" for value in row), flush=True)


def flow_matching(law: AffinePath, data: Array, iterations: int, seed: int):
    """Return a prediction function trained on `|F - (a' x0 + c' z)|^2` at uniform times."""
    network = MLP(width=192, depth=2, embedding_type="linear", embedding_scale=2.0)
    key = jax.random.key(seed)
    params = network.init(key, data[:1], jnp.zeros(1))["params"]
    tx = optax.chain(
        optax.clip_by_global_norm(1.0), optax.adam(optax.cosine_decay_schedule(2e-3, iterations))
    )

    def loss(params, key):
        pick, when, noise = jax.random.split(key, 3)
        x0 = data[jax.random.randint(pick, (BATCH,), 0, len(data))]
        t = law.t0 + (law.t1 - law.t0) * jax.random.uniform(when, (BATCH,))
        x, z = law.perturb(noise, x0, t)
        raw = network.apply({"params": params}, x, law.lam(t))
        return jnp.mean((raw - kinds()["velocity"].target(law, x0, z, t)) ** 2)

    @jax.jit
    def step(params, state, i):
        grads = jax.grad(loss)(params, jax.random.fold_in(key, i))
        updates, state = tx.update(grads, state)
        return optax.apply_updates(params, updates), state

    state = tx.init(params)
    for i in range(iterations):
        params, state = step(params, state, i)
    apply = lambda x, cond: network.apply({"params": params}, x, cond)
    return parametrize("velocity", law, apply, "lam")


def exact_field(law: AffinePath, data: Array):
    """Return the exact prediction function for the data points: x0 is the mean of their posterior.

    It has the least flow-matching loss of all functions.
    """
    # Computed outside `predict`; inside, the compiler takes seconds to fold it.
    halves = 0.5 * jnp.sum(data**2, axis=1)

    def predict(x, t):
        a, c = law.coeffs(t)
        logits = (a * x @ data.T - a**2 * halves) / c**2
        x0 = jax.nn.softmax(logits, axis=1) @ data
        return prediction_of(law, x, t, x0, (x - a * x0) / c)

    return predict


def sliced_w2(x: np.ndarray, y: np.ndarray, directions: int = 500) -> float:
    """Return the sliced 2-Wasserstein distance of two sets of the same size (Bonneel et al. 2015).

    It is the RMS over random directions of the 2-Wasserstein distance of the projections.
    """
    u = np.random.default_rng(0).standard_normal((x.shape[1], directions))
    u /= np.linalg.norm(u, axis=0)
    return float(np.sqrt(np.mean((np.sort(x @ u, axis=0) - np.sort(y @ u, axis=0)) ** 2)))


def on_digits(iterations: int, seeds: int) -> None:
    points = digits()
    found = estimate(points, draws=20_000)
    laws = {
        "optimal": Kinetic.from_gamma(*found[:2]),
        "straight": Flow(),
        # VP starts a little later, because its target grows like 1 / sqrt(t) towards t = 0.
        "VP": VP(t0=1e-3),
    }
    data = jnp.asarray(points, jnp.float32)
    order = np.random.default_rng(1).permutation(len(points))
    floor = sliced_w2(points[order[:750]], points[order[750:]])
    print(
        f"\nsliced W2 to the digits, {iterations} steps of training, mean of {seeds} runs and their"
    )
    print(f"standard deviation; between two halves of the digits it is {floor:.3f}")
    print(f"{'Euler steps':>12}" + "".join(f"{steps:>16}" for steps in STEPS))
    for name, law in laws.items():
        ends = [distance(law, exact_field(law, data), points, steps, 0) for steps in STEPS[:-1]]
        print(f"{name:>12}" + "".join(f"{end:>9.4f}       " for end in ends) + "   the exact field")
    for name, law in laws.items():
        begin, runs = time.perf_counter(), []
        for seed in range(seeds):
            predict = flow_matching(law, data, iterations, seed)
            runs.append([distance(law, predict, points, steps, seed) for steps in STEPS])
        mean, spread = np.mean(runs, axis=0), np.std(runs, axis=0)
        cells = "".join(f"{m:>9.4f} {s:.4f}" for m, s in zip(mean, spread))
        print(f"{name:>12}{cells}   {time.perf_counter() - begin:.0f} s", flush=True)


def distance(law: AffinePath, predict, points: np.ndarray, steps: int, seed: int) -> float:
    method = euler_maruyama(law, probability_flow=True)
    ts = make_grid("uniform", law, steps, law.t0)
    key = jax.random.key(1000 + seed)
    x = law.prior_sample(key, points.shape)
    end = jax.jit(lambda x: sample(key, predict, method, x, ts).x)(x)
    return sliced_w2(np.asarray(end, np.float64), points)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("tables", nargs="*", help="of energies, digits; both by default")
    parser.add_argument("--iterations", type=int, default=2000)
    parser.add_argument("--seeds", type=int, default=2)
    given = parser.parse_args()
    asked = given.tables or ["energies", "digits"]
    if unknown := set(asked) - {"energies", "digits"}:
        parser.error(f"there is no table {', '.join(unknown)}; there are energies and digits.")
    if "energies" in asked:
        energies()
    if "digits" in asked:
        on_digits(given.iterations, given.seeds)


if __name__ == "__main__":
    main()
