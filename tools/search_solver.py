"""Search for solvers of few evaluations, on known trajectories of a network.

    python -m tools.search_solver --workdir runs/digits --nfe 5 8 10
    python -m tools.search_solver --nfe 5 8 10 --data digits [--seed 0] [--out configs/solvers]
    python -m tools.search_solver --nfe 5 8 10 --config configs/digits_edm.py --workdir runs/digits

With --workdir alone the solver is for the trained network of that run and for nothing else: all
published solvers on many grids are compared, nodes and weights of the best kinds are fitted by
gradient, and fresh trajectories decide (`search/improve.py`). The result is kept in the workdir,
where sampling.method=own finds it.

The other two forms search for schedules (`search/run.py`). With --data digits the networks are
optimal denoisers (`search/sets.py`); with --config the network is that of a run. Each schedule is
written as NAME_NFE.json; sample with it by --config.sampling.method=unified
--config.sampling.unified.schedule=FILE.
"""

import xla_flags  # noqa: F401, I001 - sets them, before jax is imported

import argparse
import dataclasses
from pathlib import Path

import jax

from builders import own
from builders.experiment import build, replaced
from builders.guidance import build_classes
from builders.places import place
from builders.unused import config_of_file
from samplers.schedules.schedule import save
from sde_lib import example_keys
from scorefield import open_run
from search import Effort, Task, search, trajectories
from search.improve import improve
from search.problem import LAW
from search.sets import TRAIN, sets_of
from training.restore import restore_ema


def digits_task(seed: int, count: int) -> Task:
    """Return the task on optimal denoisers of digits.

    Decisions are scored on `count // 2` starts, and schedules refined on `count`.
    """
    uses = enumerate((count // 2, count, count))
    parts = [sets_of(TRAIN, seed, use, size) for use, size in uses]
    return Task(LAW, LAW.t0, *parts, tuple(TRAIN.values()))


def network_task(config: str, workdir: str, step: int | None, seed: int, count: int) -> Task:
    """Return the task on the trajectories of a trained network, from draws of its prior."""
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


def for_run(workdir: str, step: int | None, budgets: list[int], count: int, effort: Effort) -> None:
    """Searches a recipe for each number of evaluations, and keeps it in the workdir."""
    run = open_run(workdir, step)
    for nfe in budgets:
        experiment = replaced(run.experiment, "sampling", method="own", steps=nfe)
        experiment = dataclasses.replace(experiment, classes=build_classes(experiment))
        train, fresh = (own.trials(experiment, run.params, count, i * count) for i in (1, 2))
        recipe, about = improve(
            run.path,
            train.predict,
            train.x,
            fresh.x,
            nfe,
            experiment.config.sampling.eps,
            (train.cond, fresh.cond),
            experiment.config.sampling.batch_size,
            kinds=effort.refined,
            steps=effort.late,
        )
        file = own.keep(experiment, run.workdir, run.step, recipe, about)
        print(f"{nfe} evaluations: {own.named(recipe)}\n  {about}\n  wrote {file}", flush=True)


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
    if args.config and not args.workdir:
        parser.error("--config names the config of a run; name its --workdir too")
    name = args.name or (Path(args.workdir).name if args.workdir else args.data)
    effort = Effort(*(getattr(args, field) for field in Effort._fields))
    if args.workdir and not args.config:
        for_run(args.workdir, args.step, args.nfe, args.starts, effort)
        return
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
