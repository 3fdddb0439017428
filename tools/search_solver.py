"""Searches solver schedules for few evaluations, by known trajectories of a network.

python -m tools.search_solver --nfe 5 8 10 --data digits [--seed 0] [--out configs/solvers]
python -m tools.search_solver --nfe 5 8 10 --config configs/digits_edm.py --workdir runs/digits

With --data digits the networks are optimal denoisers (`search/sets.py`). With --config and
--workdir the network is that of a run, with its averaged parameters: its truth is a fine solve of
its own ODE, from its own prior to `sampling.eps`. Each schedule is written as NAME_NFE.json; sample
with it by --config.sampling.method=unified --config.sampling.unified.schedule=FILE.
"""

import argparse
from pathlib import Path

import jax

from builders.experiment import build
from builders.places import place
from builders.unused import config_of_file
from samplers.schedules.schedule import save
from sde_lib import example_keys
from search import Effort, Task, search, trajectories
from search.problem import LAW
from search.sets import TRAIN, sets_of
from training.restore import restore_ema


def digits_task(seed: int, count: int) -> Task:
    """The decisions are scored on half as many starts as refine a schedule."""
    uses = enumerate((count // 2, count, count))
    parts = [sets_of(TRAIN, seed, use, size) for use, size in uses]
    return Task(LAW, LAW.t0, *parts, tuple(TRAIN.values()))


def network_task(config: str, workdir: str, step: int | None, seed: int, count: int) -> Task:
    """The trajectories of a trained network, from draws of its prior."""
    experiment = build(config_of_file(str(place(config))), reads_data=False)
    _, params = restore_ema(experiment, place(workdir).absolute(), step)
    predict, path = experiment.predict(params), experiment.path
    eps, first, parts = experiment.config.sampling.eps, 0, []
    for size in (count // 2, count, count):
        keys = example_keys(seed, range(first, first + size))
        x = path.prior_sample(keys, (size, *experiment.shape))
        parts.append([trajectories(path, predict, x, eps)])
        first += size
    return Task(path, eps, *parts, (1.0,))


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nfe", type=int, nargs="+", default=[5, 8, 10, 15, 20, 40])
    parser.add_argument("--data", default="digits", choices=["digits"])
    parser.add_argument("--config", help="search with the network of this config instead")
    parser.add_argument("--workdir", help="the run that has its parameters")
    parser.add_argument("--step", type=int, help="its checkpoint; the latest if not given")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--starts", type=int, default=64, help="trajectories of a set")
    parser.add_argument("--out", default="configs/solvers")
    parser.add_argument("--name", help="of the files; the data's or the workdir's by default")
    for name, default in Effort()._asdict().items():
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args(arguments)
    if (args.config is None) != (args.workdir is None):
        parser.error("--config and --workdir go together")
    name = args.name or (Path(args.workdir).name if args.workdir else args.data)
    effort = Effort(*(getattr(args, field) for field in Effort._fields))
    folder = place(args.out)
    folder.mkdir(parents=True, exist_ok=True)
    if args.config:
        task = network_task(args.config, args.workdir, args.step, args.seed, args.starts)
    else:
        with jax.enable_x64(True):
            task = digits_task(args.seed, args.starts)
    for nfe in args.nfe:
        schedule, about = search(task, nfe, args.seed, effort)
        save(folder / f"{name}_{nfe}.json", schedule, {"data": name, **about})


if __name__ == "__main__":
    main()
