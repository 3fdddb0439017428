"""How much error does noise in the steps add with an exact network, and remove with a wrong one?

    python -m benchmarks.samplers.strength [--nfe 20 40 80] [--samples 1024] [--json OUT]

The networks are the exact network of the digits (`search/problem.py`), and the same network spoilt
above `sigma = 1`, where its x0 is moved a fifth of the way to the mean of the data. With the
spoilt network, early steps are wrong and late steps are right. The figure is the energy distance to
4096 draws of the data, unbiased (zero is perfect). The first line printed is the standard deviation
of this distance for as many perfect samples. `eta` is the strength of noise as in
`samplers/exponential/integrals.py`: 0 is the ODE, 1 the reverse SDE. K restarts count as strength K
on their interval.
"""

import argparse
import json
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.samplers.denoising_mcmc import DRAWS, Data, draw, energy, floor, mean_within
from samplers import Restarts, dpm_multistep, edm, heun, make_grid, restart, sample
from sde_lib import example_keys, expand, split
from sde_lib.prediction import Prediction
from search.problem import LAW, Problem, load_problem, predict_fn

SPOILT_ABOVE, SHARE = 1.0, 0.2
# A restart goes between these noise levels; the way down has this many steps of Heun.
INTERVAL, RETURN = (0.1, 1.0), 4
BATCH = 256


def spoilt(problem: Problem):
    """Return the network that is exact up to `sigma = 1`, and above moves x0 towards the mean."""
    exact, centre = predict_fn(problem), jnp.asarray(problem.x.mean(axis=0))

    def predict(x, t):
        share = jnp.where(jnp.asarray(t) > SPOILT_ABOVE, SHARE, 0.0)
        found, sigma = exact(x, t), expand(jnp.asarray(t), x)
        x0 = found.x0 + expand(share, x) * (centre - found.x0)
        eps = (x - x0) / sigma
        return Prediction(x0=x0, eps=eps, score=-eps / sigma, velocity=eps)

    return predict


def plain(make, nfe: int):
    """Return `(sampling function, NFE)` of a sampler on the Karras grid, denoised at its end."""
    sampler = make(LAW)
    steps = (nfe - 1) // sampler.nfe
    ts = make_grid("karras", LAW, steps, LAW.t0)
    return partial(sample, sampler=sampler, ts=ts, denoise=True), steps * sampler.nfe + 1


def restarted(times: int, nfe: int):
    """Return `(sampling function, NFE)` of Heun with restarts, within the budget `nfe`.

    Returns None if the restarts leave fewer than four steps for the run itself.
    """
    steps = (nfe - 1) // 2 - times * RETURN
    if steps < 4:
        return None
    ts = make_grid("karras", LAW, steps, LAW.t0)
    rows = [Restarts(*INTERVAL, times, RETURN)]
    return restart(LAW, heun(LAW), ts, rows, True), 2 * (steps + times * RETURN) + 1


def methods(nfe: int):
    yield "heun", 0.0, plain(heun, nfe)
    for eta in (0.0, 0.5, 1.0, 2.0):
        yield "dpm_multistep 2", eta, plain(partial(dpm_multistep, order=2, eta=eta), nfe)
    for eta in (0.5, 1.0, 2.0):
        yield "edm", eta, plain(partial(edm, eta=eta), nfe)
    for times in (1, 2, 4):
        made = restarted(times, nfe)
        if made:
            yield "heun with restarts", float(times), made


def compare(problem: Problem, budgets: list[int], samples: int) -> list[dict]:
    draws = draw(problem, DRAWS, 1)
    data = Data(draws, mean_within(draws))
    start_keys, keys = split(example_keys(0, jnp.arange(samples)), 2)
    x = LAW.prior_sample(start_keys, (samples, problem.x.shape[1]))
    networks = {"exact": predict_fn(problem), "spoilt": spoilt(problem)}
    one_sd = floor(problem, data, samples)
    print(f"one standard deviation of {samples} perfect samples: {one_sd:.4f}")
    print(f"{'NFE':>4}  {'method':<20}{'eta':>5}{'exact':>10}{'spoilt':>10}")
    rows = []
    for nfe in budgets:
        for name, eta, (run, made) in methods(nfe):
            found = {}
            for kind, predict in networks.items():
                one = jax.jit(lambda key, x, run=run, predict=predict: run(key, predict, x=x).x)
                ends = [
                    np.asarray(one(keys[i : i + BATCH], x[i : i + BATCH]))
                    for i in range(0, samples, BATCH)
                ]
                found[kind] = energy(np.concatenate(ends), data)
            rows.append({"nfe": made, "method": name, "eta": eta, **found, "one_sd": one_sd})
            print(f"{made:>4}  {name:<20}{eta:>5}{found['exact']:>10.4f}{found['spoilt']:>10.4f}")
    return rows


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nfe", type=int, nargs="+", default=[20, 40, 80])
    parser.add_argument("--samples", type=int, default=1024)
    parser.add_argument("--json", help="where the rows are written")
    args = parser.parse_args(arguments)
    with jax.enable_x64(True):
        rows = compare(load_problem("digits"), args.nfe, args.samples)
    if args.json:
        Path(args.json).write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
