"""Draw and measure the geometry of a run's sampling trajectories.

python -m tools.trajectories --config configs/digits_vp.py --workdir runs/digits --out DIR
python -m tools.trajectories --config configs/digits_vp.py --network empirical --out DIR

`--network` is the trained network of the workdir (`trained`), the optimal denoiser of the training
set (`empirical`), or the denoiser of a Gaussian with the moments of the training set (`gaussian`).
The last two need no checkpoint. With `trained` and `gaussian` the optimal denoiser runs from the
same starts too, and the distance between the two runs is drawn. The command writes a file for each
figure, SVG or PNG, and `trajectories.json`. `python -m benchmarks.samplers.geometry` compares the
same numbers with an independent computation.
"""

import xla_flags  # noqa: F401, I001 - sets XLA's flags before jax is imported

import argparse
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from builders.experiment import Experiment, build
from builders.checks import choose
from evaluation.tasks.recording import record
from evaluation.tasks.evaluate import strict
from evaluation.tasks.score_deviation import compare, paired
from evaluation.tasks.trajectories import curves, energy_distance, summary, trajectory
from evaluation.report.trajectory_figures import deviation_curves, figures
from samplers import GRIDS, PREDICTORS, make_grid
from sde_lib import example_keys, split
from exact import gaussian_predict, moments
from exact.empirical import Points, empirical_predict, points
from tools.describe import load
from training.checkpoint import CheckpointError
from training.restore import restore_ema
from whole_files import put
from builders.places import place

NETWORKS = ("trained", "empirical", "gaussian")
FORMATS = ("svg", "png")


def scaled_data(experiment: Experiment, limit: int | None = None) -> np.ndarray:
    """Return the training set `(N, ...)` as the model sees it; dequantised levels at mid-bin."""
    source, scaler = experiment.train, experiment.scaler
    raw = source.fetch(np.arange(min(limit or source.size, source.size)))
    middle = 0.5 if scaler.levels and scaler.dequantize else 0.0
    return np.asarray(scaler.affine(jnp.asarray(raw, jnp.float32) + middle))


def network(experiment: Experiment, name: str, data: np.ndarray, workdir: Path | None, step):
    """Return `(arguments -> PredictFn, arguments)` of the network `name`; None for `empirical`.

    Raises:
        ValueError: `name` is "trained", and there is no workdir.
    """
    if name == "empirical":
        return None
    if name == "gaussian":
        return lambda found: gaussian_predict(experiment.path, found), moments(data)
    if workdir is None:
        raise ValueError(
            "--workdir is not given; name the folder of a trained run, or take --network=empirical."
        )
    return experiment.predict, restore_ema(experiment, workdir.absolute(), step)[1]


def starts(experiment: Experiment, number: int, seed: int):
    """Return noise keys and prior draws `(B, ...)` per example, as `evaluation` draws them."""
    start_keys, noise_keys = split(example_keys(seed, np.arange(number)), 2)
    return noise_keys, experiment.path.prior_sample(start_keys, (number, *experiment.shape))


def analyse(
    experiment: Experiment, chosen, data: Points, sampler, ts, key, x
) -> tuple[np.ndarray, dict[str, np.ndarray], dict[str, Any]]:
    """Return the trajectory of the chosen network, the curves to draw, and the numbers to write."""
    path = experiment.path
    if chosen is None:
        run = jax.jit(lambda p, key, x: record(key, empirical_predict(path, p), sampler, x, ts))
        found = trajectory(path, run(data, key, x))
        told = curves(found, data)
        return found, told, summary(found, told)
    make, arguments = chosen

    @jax.jit
    def both(arguments, p, key, x):
        return paired(key, make(arguments), empirical_predict(path, p), sampler, x, ts)

    between = compare(path, *both(arguments, data, key, x))
    told = curves(between.learned, data)
    numbers = summary(between.learned, told)
    drawn = deviation_curves(between)
    numbers["score_deviation"] = {name: np.mean(v, axis=1).tolist() for name, v in drawn.items()}
    return between.learned, {**told, **drawn}, numbers


def main(argv: list[str] | None = None) -> None:
    given = parse(argv)
    try:
        choose("--network", given.network, NETWORKS)
        choose("--method", given.method, PREDICTORS)
        choose("--grid", given.grid, GRIDS)
        choose("--format", given.format, FORMATS)
        experiment = build(load(given.config))
        path, eps = experiment.path, given.eps or experiment.config.sampling.eps
        ts = make_grid(given.grid, path, given.steps, eps)
        data = scaled_data(experiment, given.limit)
        chosen = network(experiment, given.network, data, given.workdir, given.step)
        key, x = starts(experiment, given.starts, given.seed)
        sampler = PREDICTORS[given.method](path)
        found, told, numbers = analyse(experiment, chosen, points(data), sampler, ts, key, x)
    except (ValueError, OSError, CheckpointError) as error:
        raise SystemExit(f"{type(error).__name__}: {' '.join(str(error).split())}") from None
    flat = data[: given.sample].reshape(min(given.sample, len(data)), -1).astype(np.float64)
    numbers["energy_distance"] = {
        kind: [energy_distance(v, flat) for v in values]
        for kind, values in (("state", found.y), ("denoised", found.d))
    }
    numbers |= {"network": given.network, "method": given.method, "seed": given.seed}
    given.out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(strict(numbers), indent=2, allow_nan=False)
    put(given.out / "trajectories.json", text + "\n")
    for name, picture in figures(found.sigma, told, format=given.format).items():
        put(given.out / f"{name}.{given.format}", picture)
    print(headline(numbers))
    print(f"wrote trajectories.json and figures to {given.out}")


def headline(numbers: dict[str, Any]) -> str:
    """Return the few figures by which runs differ most, as text."""
    state, denoised, falls = numbers["state"], numbers["denoised"], numbers["falls"]
    return (
        f"chord {state['chord']:.4g}, largest deviation {state['largest_deviation_to_chord']:.2%}; "
        f"of the outputs {denoised['chord']:.4g} and {denoised['largest_deviation_to_chord']:.2%}\n"
        f"{falls['step']} of {falls['of']} steps lower the density of the data\n"
        f"the outputs end {numbers['nearest']['denoised_end']:.3g} from a training example (median)"
    )


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--config", type=place, required=True, help="a config file")
    parser.add_argument("--workdir", type=place, help="of the trained run")
    parser.add_argument("--out", type=place, required=True, help="folder for figures and numbers")
    parser.add_argument("--network", default="trained", help=", ".join(NETWORKS))
    parser.add_argument("--step", type=int, help="checkpoint to use; the latest if not given")
    parser.add_argument("--method", default="ddim", help=f"one of {', '.join(PREDICTORS)}")
    parser.add_argument("--grid", default="karras", help=f"one of {', '.join(GRIDS)}")
    parser.add_argument("--steps", type=int, default=39, help="steps, one less than nodes")
    parser.add_argument(
        "--eps", type=float, help="time of the last node; sampling.eps if not given"
    )
    parser.add_argument("--starts", type=int, default=64, help="number of runs")
    parser.add_argument("--seed", type=int, default=0, help="of the starts")
    parser.add_argument("--limit", type=int, help="training examples read; all if not given")
    parser.add_argument("--format", default="svg", help=f"of figures, {' or '.join(FORMATS)}")
    parser.add_argument("--sample", type=int, default=2000, help="of these, for energy distances")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
