"""Do sampling trajectories have the geometry that an independent computation found?

    python -m benchmarks.samplers.geometry [table] [laws] [displaced] [--seed 0]

The problem of the reference figures is: the 1797 digits of 8x8 in [-1, 1], their optimal denoiser,
Euler on 40 nodes from sigma = 20 to 0.01 with rho = 7, 300 starts, float64. Chen et al. 2023 (arXiv
2305.19947) define the quantities; the reference figures were computed with other starts and other
code. `table` gives the distance of each figure from its reference, less the rounding of the
reference's last digit, in standard errors of the difference. `laws` compares the same curves under
VE, VP and sub-VP. `displaced` counts how often the density falls when the denoiser has an error.
"""

import argparse
from typing import NamedTuple

import jax
import numpy as np
from scipy.spatial.distance import cdist, pdist
from sklearn.datasets import load_digits

from evaluation.metrics.mmd import mmd_squared
from evaluation.tasks.recording import record
from evaluation.tasks.score_deviation import ScoreDeviation, compare, paired
from evaluation.tasks.trajectories import Trajectory, chord, curves, principal_shares, trajectory
from exact import gaussian_predict, moments
from exact.empirical import Points, empirical_predict, points, posterior
from samplers import ddim, make_grid
from sde_lib import EDM, VE, VP, SubVP

KEY = jax.random.key(0)
LAW = EDM(t0=0.01, t1=20.0)
RUNS, STEPS = 300, 39
# Figures as they were printed, as text, because the number of digits gives their rounding.
REFERENCE = {
    "chord of the states": ["158"],
    "chord of the outputs": ["4.2"],
    "largest deviation / chord, states": ["0.019"],
    "largest deviation / chord, outputs": ["0.32"],
    "energy distance, states": ["88", "28", "5.5", "1.5", "0.22"],
    "energy distance, outputs": ["2.25", "1.72", "0.53", "0.10", "0.03"],
    "price of a jump": ["4.2", "3.5", "2.8", "1.6", "0.33", "0.083"],
    "variance in 1, 2, 3 directions": ["0.9993", "0.99996", "0.999998"],
    "last state to the nearest example": ["0.081"],
}
ENERGY_NODES = [0, 8, 16, 20, 24]
JUMP_NODES = [0, 12, 16, 20, 24, 28]  # sigma = 20, 4.1, 2.2, 1.1, 0.51, 0.22


class Measured(NamedTuple):
    """Data and runs. `data` is `(1797, 64)`.

    `deviation` has the run of the optimal denoiser, and the run of the denoiser of a Gaussian with
    the data's moments from the same starts; `told` has the curves of the optimal run.
    """

    data: np.ndarray
    ready: Points
    deviation: ScoreDeviation
    told: dict[str, np.ndarray]


class Row(NamedTuple):
    name: str
    reference: list[str]
    found: np.ndarray
    stderr: np.ndarray

    def places(self) -> list[int]:
        """Return the number of decimals of each reference figure."""
        return [len(text.partition(".")[2]) for text in self.reference]

    def errors(self) -> np.ndarray:
        """Return distances from the reference, less half a unit of its last digit.

        The unit is the standard error of the difference of two such means.
        """
        rounding = 0.5 * 10.0 ** -np.array(self.places())
        apart = np.abs(self.found - np.array(self.reference, float)) - rounding
        return np.maximum(apart, 0.0) / (np.sqrt(2.0) * self.stderr)


def measure(seed: int = 0) -> Measured:
    """Repeat the reference run with other starts. Needs float64."""
    data = load_digits().data / 8.0 - 1.0
    ready, model = points(data), moments(data)
    ts = make_grid("karras", LAW, STEPS, LAW.t0)

    @jax.jit
    def run(ready, x):
        optimal = empirical_predict(LAW, ready)
        return paired(KEY, gaussian_predict(LAW, model), optimal, ddim(LAW), x, ts)

    found = compare(LAW, *run(ready, LAW.t1 * normal(seed, RUNS, data.shape[1])))
    return Measured(data, ready, found, curves(found.optimal, ready))


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def rows(measured: Measured) -> list[Row]:
    """Return the figures of the optimal run in the order of `REFERENCE`, with standard errors."""
    run, told = measured.deviation.optimal, measured.told
    found = [
        over_runs(chord(run.y)[None]),
        over_runs(chord(run.d)[None]),
        over_runs(told["deviation_state"].max(0)[None]),
        over_runs(told["deviation_denoised"].max(0)[None]),
        energies(run.y, measured.data),
        energies(run.d, measured.data),
        over_runs(told["to_end_denoised"][JUMP_NODES]),
        over_runs(principal_shares(run.y)),
        median(told["density_state_distance"][-1]),
    ]
    return [Row(*item, *values) for item, values in zip(REFERENCE.items(), found)]


def over_runs(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return means and standard errors over B of `(F, B)`."""
    return values.mean(1), values.std(1, ddof=1) / values.shape[1] ** 0.5


def median(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the median, and the standard error of a median of normal draws."""
    stderr = np.sqrt(np.pi / 2) * values.std(ddof=1) / len(values) ** 0.5
    return np.array([np.median(values)]), np.array([stderr])


def energies(y: np.ndarray, data: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the energy distance to the data at five nodes, and its standard errors.

    The reference also counts pairs of an example with itself, which adds `E|x - x'| / n` for each
    of the two sets to the unbiased distance. The same is added here.
    """
    kernel = lambda a, b: -cdist(a, b)
    pairs = [mmd_squared(y[n], data, kernel) for n in ENERGY_NODES]
    of_data = pdist(data).mean() / len(data)
    own = [pdist(y[n]).mean() / y.shape[1] + of_data for n in ENERGY_NODES]
    values, errors = np.array(pairs).T
    return values + own, errors


def laws(measured: Measured) -> dict[str, float]:
    """Return by law the largest difference of any curve from EDM's, over the curve's maximum."""
    sigma = measured.deviation.optimal.sigma
    differences = {}
    for name, law in (("VE", VE()), ("VP", VP()), ("sub-VP", SubVP())):
        ts = law.t_of_sigma(sigma)
        x = law.coeffs(ts[0]).a * measured.deviation.optimal.y[0]
        run = jax.jit(
            lambda p, x, law=law, ts=ts: record(KEY, empirical_predict(law, p), ddim(law), x, ts)
        )
        told = curves(trajectory(law, run(measured.ready, x)), measured.ready)
        differences[name] = max(difference(told[k], v) for k, v in measured.told.items())
    return differences


def difference(one: np.ndarray, other: np.ndarray) -> float:
    """Return the largest difference of two curves, over the largest value of the second.

    Points where a curve is nan are left out: a path that does not move has no angle.
    """
    return float(np.nanmax(np.abs(one - other)) / np.nanmax(np.abs(other)))


def displaced(measured: Measured, size: float) -> tuple[int, int]:
    """Count the steps and the outputs that lower the density when the denoiser has an error.

    The error is `size |D* - y|` in a random direction, added to D* at every step of the optimal
    run. The density is that of the data with the bandwidth of the node.
    """
    run: Trajectory = measured.deviation.optimal
    tell = jax.jit(lambda p, y, sigma: posterior(LAW, p, y, sigma).logp)
    directions = normal(1, *run.y.shape)
    directions /= np.linalg.norm(directions, axis=-1, keepdims=True)
    steps = outputs = 0
    for n, (sigma, after) in enumerate(zip(run.sigma, run.sigma[1:])):
        gap = np.linalg.norm(run.d[n] - run.y[n], axis=-1, keepdims=True)
        d = run.d[n] + size * gap * directions[n]
        here = tell(measured.ready, run.y[n], sigma)
        step = after / sigma * run.y[n] + (1.0 - after / sigma) * d
        steps += int(np.sum(tell(measured.ready, step, sigma) < here))
        outputs += int(np.sum(tell(measured.ready, d, sigma) < here))
    return steps, outputs


def print_table(measured: Measured) -> None:
    print(f"{'':<36}{'reference':>10}{'here':>22}{'apart, in s.e.':>16}")
    for row in rows(measured):
        lines = zip(row.reference, row.found, row.places(), row.stderr, row.errors())
        for i, (reference, found, places, stderr, errors) in enumerate(lines):
            name = "" if i else row.name
            here = f"{found:.{places + 1}f} +- {stderr:.1g}"
            print(f"{name:<36}{reference:>10}{here:>22}{errors:>16.1f}")
    told, run = measured.told, measured.deviation.optimal
    falls = [int(np.sum(told[f"density_{k}"][:STEPS] < 0)) for k in ("step", "denoised")]
    print(f"falls of the density, steps and outputs: {falls} of {told['density_step'].size}; 0, 0")
    ends = run.d[-1] - measured.data[told["density_index"][-1]]
    print(f"last output to its example, largest: {np.linalg.norm(ends, axis=1).max():.1g}; 0")
    to_end = np.diff(told["to_end_state"].mean(1)).max()
    print(f"largest step of mean |y_n - y_0|: {to_end:.2g}; below 0")
    low, high = magnitude(measured)
    print(
        f"rms |y_n| over sqrt(E|x0|^2 + sigma^2 D): {low:.3f} to {high:.3f}; 1 for the exact flow"
    )


def magnitude(measured: Measured) -> tuple[float, float]:
    """Return the least and largest ratio, over nodes, of the states' RMS norm to the law's."""
    energy, sigma = np.mean(np.sum(measured.data**2, axis=1)), measured.deviation.optimal.sigma
    truth = np.sqrt(energy + measured.data.shape[1] * sigma**2)
    ratio = np.sqrt(np.mean(measured.told["norm_state"] ** 2, axis=1)) / truth
    return float(ratio.min()), float(ratio.max())


def main(argv: list[str] | None = None) -> None:
    parts = ("table", "laws", "displaced")
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(parts)}; all by default")
    parser.add_argument("--seed", type=int, default=0, help="of the starts")
    given = parser.parse_args(argv)
    if unknown := set(given.parts) - set(parts):
        parser.error(f"there is no part {', '.join(unknown)}; there are {', '.join(parts)}.")
    asked = given.parts or parts
    with jax.enable_x64(True):
        measured = measure(given.seed)
        if "table" in asked:
            print_table(measured)
        if "laws" in asked:
            for name, value in laws(measured).items():
                print(f"largest difference of a curve under {name}: {value:.1g}")
        if "displaced" in asked:
            for size in (0.9, 1.5, 2.5):
                counts = displaced(measured, size)
                print(f"off by {size} |D* - y|: steps and outputs that fall {counts} of 11700")


if __name__ == "__main__":
    main()
