"""How good are denoised chain states compared with full runs, for equal numbers of evaluations?

    python -m benchmarks.samplers.denoising_mcmc [--chains 256] [--rounds 4] [--update argmax]
                                        [--quick] [--json OUT]

The data are the digits with their exact network, as in `search/problem.py`, and with the exact
p(level | y). Each row gives the energy distance of samples to 4096 draws of the data. The distance
is unbiased (zero is perfect), and a mean over `rounds` rounds of `chains` samples. The figure in
brackets is the standard deviation of one such round of perfect samples. `changed` is the share of a
chain's outputs whose nearest digit differs from that of the previous output. It is small for chains
that hardly move: they keep the quality of their start and repeat it. The NFE of a chain's output
count the moves, the integrator and the last denoising, but not the start (40 NFE of Heun, denoised)
and the burn-in.
"""

import argparse
import json
import time
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.spatial.distance import cdist

from samplers import heun, make_grid, sample, unipc
from samplers.mcmc.denoising_mcmc import Descent, denoising_mcmc
from samplers.mcmc.langevin_gibbs import Walk
from samplers.mcmc.levels import make_levels, mixture_logits
from sde_lib import example_keys, split
from search.problem import LAW, Problem, load_problem, predict_fn

LEVELS, BURN_IN, START_STEPS = 200, 20, 20
DRAWS = 4096

# (eta, n_skip, steps of Heun)
WALKS = [
    (eta, n_skip, steps)
    for n_skip, steps in ((2, 2), (4, 3), (6, 4))
    for eta in (0.02, 0.1, 0.2, 0.5)
]
QUICK = [(0.1, 4, 3)]
FULL = (2, 3, 4, 5, 6, 7, 9, 12)


class Data(NamedTuple):
    """Draws `(DRAWS, D)` of the mixture, and the mean distance between two of them."""

    draws: np.ndarray
    within: float


def draw(problem: Problem, n: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    points = problem.x[rng.integers(len(problem.x), size=n)]
    return points + problem.s * rng.standard_normal(points.shape)


def mean_within(x: np.ndarray) -> float:
    return float(cdist(x, x).sum() / (len(x) * (len(x) - 1)))


def energy(x: np.ndarray, data: Data) -> float:
    """Return `2 E|x - y| - E|x - x'| - E|y - y'|` without bias (Szekely & Rizzo 2013)."""
    return 2.0 * float(cdist(x, data.draws).mean()) - mean_within(x) - data.within


def floor(problem: Problem, data: Data, n: int, repeats: int = 20) -> float:
    """Return the standard deviation of the energy distance of n perfect samples."""
    return float(np.std([energy(draw(problem, n, 100 + i), data) for i in range(repeats)]))


def changed(problem: Problem, rounds: np.ndarray) -> float:
    """Return the share of outputs whose nearest point differs from that of the previous output.

    `rounds` are the outputs of all chains, `(rounds, chains, D)`.
    """
    nearest = np.stack([cdist(x, problem.x).argmin(axis=1) for x in rounds])
    return float(np.mean(nearest[1:] != nearest[:-1]))


def full_run(problem: Problem, make, grid: str, steps: int, keys, x) -> np.ndarray:
    ts, predict = make_grid(grid, LAW, steps, LAW.t0), predict_fn(problem)
    run = jax.jit(lambda key, x: sample(key, predict, make(LAW), x, ts, denoise=True).x)
    return np.asarray(run(keys, x))


def chain_run(problem: Problem, walk: Walk, steps: int, rounds: int, keys, x):
    """Return outputs `(rounds, chains, D)`, and the median sigma from which they were denoised."""
    levels, predict = make_levels(LAW, LEVELS), predict_fn(problem)
    ts = make_grid("karras", LAW, START_STEPS, LAW.t0)
    start = lambda key, predict, x: sample(key, predict, heun(LAW), x, ts, denoise=True)
    logits = mixture_logits(levels, problem.x, problem.s)
    down = Descent(heun(LAW), steps, LAW.t0)
    chains = denoising_mcmc(LAW, levels, logits, start, walk, down, rounds)
    result = jax.jit(lambda key, x: chains(key, predict, x))(keys, x)
    found = np.asarray(result.x).reshape(-1, rounds, x.shape[1])
    return found.swapaxes(0, 1), float(np.median(result.trace))


def compare(problem: Problem, chains: int, rounds: int, update: str, quick: bool) -> list[dict]:
    draws = draw(problem, DRAWS, 1)
    data = Data(draws, mean_within(draws))
    start_keys, keys = split(example_keys(0, jnp.arange(chains * rounds)), 2)
    x = LAW.prior_sample(start_keys, (chains * rounds, problem.x.shape[1]))
    perfect = floor(problem, data, chains)
    print(f"one round of {chains} perfect samples: 0 ± {perfect:.4f}")
    score = lambda found: float(np.mean([energy(part, data) for part in found]))
    rows = []

    def row(name: str, nfe: int, found: np.ndarray, **more) -> None:
        rows.append({"name": name, "nfe": nfe, "energy": score(found), "one_sd": perfect, **more})
        tail = "".join(f"  {key} {value:.3g}" for key, value in more.items())
        print(f"{nfe:>4}  {name:<28}{rows[-1]['energy']:>9.4f} ({perfect:.4f}){tail}", flush=True)

    for steps in FULL[:2] if quick else FULL:
        found = full_run(problem, heun, "karras", steps, keys, x)
        row("heun, karras, from 80", 2 * steps + 1, found.reshape(rounds, chains, -1))
    best = partial(unipc, order=1, form="noise", variant="b1")
    for steps in (4,) if quick else (4, 8):
        found = full_run(problem, best, "tangent", steps, keys, x)
        row("unipc 1, tangent, from 80", steps + 1, found.reshape(rounds, chains, -1))
    for eta, n_skip, steps in QUICK if quick else WALKS:
        begin = time.perf_counter()
        walk = Walk(eta, n_skip, update, ((BURN_IN, eta),))
        found, sigma = chain_run(problem, walk, steps, rounds, keys, x)
        name, nfe = f"chain, eta {eta}, n_skip {n_skip}", n_skip + 2 * steps + 1
        more = {"changed": changed(problem, found)} if rounds > 1 else {}
        row(name, nfe, found, sigma=sigma, **more, seconds=time.perf_counter() - begin)
    return rows


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--chains", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=4, help="outputs of each chain")
    parser.add_argument("--update", choices=["argmax", "gibbs"], default="argmax")
    parser.add_argument("--quick", action="store_true", help="one chain and few full runs")
    parser.add_argument("--json", help="where the rows are written")
    args = parser.parse_args(arguments)
    with jax.enable_x64(True):
        rows = compare(load_problem("digits"), args.chains, args.rounds, args.update, args.quick)
    if args.json:
        Path(args.json).write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
