"""Kinds of data for the benchmark of few evaluations, and its ratio to the best peer on each.

    python -m benchmarks.samplers.kinds [--kinds curves moons] [--nfe 5 8 10 15 20 40] [--refine]

The methods and grids among which a solver is chosen (`search/candidates.py`) were picked on the
kinds of `TUNED`. Those of `SCORED` were looked at for their scores alone.
"""

import argparse
import gzip
import json
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from sklearn.datasets import load_sample_images, make_moons

from benchmarks.samplers.few_steps import best, measure
from benchmarks.samplers.own import rows
from benchmarks.samplers.peers import peers
from search import sets
from search.problem import Problem, make_problem, reference

# Where Debian's package dataset-fashion-mnist puts its images.
GARMENTS = Path("/usr/share/datasets/fashion-mnist/train-images-idx3-ubyte.gz")


def curves(count: int = 512, points: int = 128) -> np.ndarray:
    """Return smooth curves, sums of four waves of random phase and falling size."""
    rng, at = np.random.default_rng(5), np.linspace(0.0, 1.0, points)
    phase = rng.uniform(0.0, 2.0 * np.pi, (4, count, 1))
    size = 0.6 * rng.standard_normal((4, count, 1)) / np.arange(1, 5)[:, None, None]
    waves = np.arange(1, 5)[:, None, None] * 2.0 * np.pi * at
    return np.sum(size * np.sin(waves + phase), axis=0)


def photographs(count: int = 512, side: int = 32) -> np.ndarray:
    """Return colour cuts of two photographs at half their resolution, `(count, 3 side^2)`."""
    rng, cuts = np.random.default_rng(7), []
    for i in range(count):
        image = load_sample_images().images[i % 2]
        y, x = (rng.integers(0, size - 2 * side) for size in image.shape[:2])
        cut = image[y : y + 2 * side, x : x + 2 * side]
        cuts.append(cut.reshape(side, 2, side, 2, 3).mean(axis=(1, 3)).ravel() / 127.5 - 1.0)
    return np.stack(cuts)


def correlated(count: int = 512, dims: int = 64) -> np.ndarray:
    """Return draws of a Gaussian whose standard deviations fall as 2 / k, in a random basis."""
    rng = np.random.default_rng(1)
    basis, _ = np.linalg.qr(rng.standard_normal((dims, dims)))
    return rng.standard_normal((count, dims)) * (2.0 / np.arange(1, dims + 1)) @ basis.T


def garments(count: int = 256) -> np.ndarray:
    """Return the first images of Fashion-MNIST in [-1, 1].

    Raises:
        FileNotFoundError: they are not installed.
    """
    if not GARMENTS.is_file():
        raise FileNotFoundError(f"There is no {GARMENTS}; apt-get install dataset-fashion-mnist.")
    pixels = np.frombuffer(gzip.decompress(GARMENTS.read_bytes()), np.uint8, offset=16)
    return pixels.reshape(-1, 784)[:count] / 127.5 - 1.0


def normal(count: int, dims: int, scale: float, seed: int) -> np.ndarray:
    """Return points drawn from N(0, scale^2)."""
    return scale * np.random.default_rng(seed).standard_normal((count, dims))


# Data `(N, D)` and the standard deviation s of the mixture around them.
Made = tuple[Callable[[], np.ndarray], float]
TUNED: dict[str, Made] = {
    "digits": (lambda: sets.digits()[:512], 0.05),
    "five points": (lambda: np.random.default_rng(3).uniform(-1.0, 1.0, (5, 2)), 0.05),
    "points in 12-D": (lambda: normal(64, 12, 0.5, 4), 0.1),
    "garments": (garments, 0.05),
}
SCORED: dict[str, Made] = {
    "moons": (lambda: make_moons(5000, noise=0.03, random_state=2)[0] - [0.5, 0.25], 0.02),
    "a cloud of 50,000": (lambda: normal(50_000, 2, 1.0, 8), 0.01),
    "correlated": (correlated, 0.1),
    "curves": (curves, 0.05),
    "fields, times 10": (lambda: 10.0 * sets.fields(), 0.5),
    "binary, times 0.1": (lambda: 0.1 * sets.binary(), 0.002),
    "photographs": (photographs, 0.05),
    "grey patches": (lambda: sets.patches(side=16), 0.05),
}


def problem_of(kind: str, starts: int = 64) -> Problem:
    """Return the problem of a kind, by its name."""
    make, s = {**TUNED, **SCORED}[kind]
    return make_problem(kind, make(), s, starts)


def compare(kind: str, budgets: list[int], folder: Path, refine: bool) -> list[dict]:
    """Return the errors of all peers and of the measured solvers on one kind."""
    problem = problem_of(kind)
    ends = reference(problem, folder, tolerance=1e-9).ends
    found = []
    for row in (*rows(problem, refine), *peers(problem)):
        found += measure(row, kind, budgets, ends)
    return found


def lines(kind: str, found: list[dict]) -> list[str]:
    """Return one line a budget: the best peer's error, and ours as multiples of it."""
    frontier, made = best(found), []
    for nfe in sorted({nfe for nfe, _ in frontier}):
        theirs = [
            rows[0] for (n, source), rows in frontier.items() if n == nfe and source != "ours"
        ]
        ours = {row["recipe"]: row["rmse"] for row in found if row["nfe"] == nfe and row["recipe"]}
        least = min(theirs, key=lambda row: row["rmse"], default=None)
        scale = least["rmse"] if least else 1.0
        beside = f"{least['source']} {least['sampler']}, {least['grid']}" if least else "no peer"
        ratios = ", ".join(f"{mark} {error / scale:.2f}" for mark, error in ours.items())
        made.append(f"{kind:<18} {nfe:>3}  {scale:<9.3g} {beside:<44} {ratios}")
    return made


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    known = [*TUNED, *SCORED]
    parser.add_argument("--kinds", nargs="+", default=known, choices=known)
    parser.add_argument("--nfe", type=int, nargs="+", default=[5, 8, 10, 15, 20, 40])
    parser.add_argument(
        "--refine", action="store_true", help="fit nodes and weights too, a minute a budget"
    )
    parser.add_argument("--cache", default="runs/benchmarks", help="where references are kept")
    parser.add_argument("--json", help="where all rows are written")
    args = parser.parse_args(arguments)
    found = []
    for kind in args.kinds:
        with jax.enable_x64(True):
            found += (rows := compare(kind, args.nfe, Path(args.cache), args.refine))
        print("\n".join(lines(kind, rows)), flush=True)
    if args.json:
        Path(args.json).write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
