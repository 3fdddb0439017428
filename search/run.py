"""One search, from the first population to the final ranking on fresh trajectories.

1. The published solvers (`known.py`) are scored. The best few kinds are refined, because the nodes
   matter most for a schedule, and added to the population.
2. Evolution changes the decisions (`evolve.py`).
3. The best few kinds are refined with more steps (`refine.py`).
4. The finalists and the best published solver are ranked on trajectories that no step above used.
"""

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import jax
import numpy as np

from samplers.schedules.schedule import Schedule
from sde_lib import AffinePath
from search.evolve import EFFORT, Effort, evolve, refine_best
from search.known import baselines
from search.refine import refiner
from search.score import Trajectories, scorer


class Task(NamedTuple):
    """The task of a search: `path`, the end `eps`, and for each set the trajectories that score
    decisions (`small`), that refine schedules (`train`) and that rank finalists (`fresh`), with the
    `weights` of the sets."""

    path: AffinePath
    eps: float
    small: Sequence[Trajectories]
    train: Sequence[Trajectories]
    fresh: Sequence[Trajectories]
    weights: Sequence[float]


class Result(NamedTuple):
    """The schedule, and notes on it: scores, Kendall's tau, effort, seconds, evaluations."""

    schedule: Schedule
    about: dict


def mean_log(score: Callable, weights: Sequence[float]) -> Callable:
    """`schedules -> (S,)`, the weighted mean over the sets of the log of the median distance."""
    share = np.asarray(weights) / np.sum(weights)
    return lambda schedules: np.log(score(schedules)) @ share


def search(task: Task, nfe: int, seed: int = 0, effort: Effort = EFFORT, say=print) -> Result:
    """The schedule of `nfe` evaluations that is best on the fresh trajectories.

    Raises:
        ValueError: for fewer than three evaluations.
    """
    if nfe < 3:
        raise ValueError(f"nfe is {nfe}; a search needs at least 3 evaluations.")
    begin = time.perf_counter()
    seconds = lambda: round(time.perf_counter() - begin, 1)
    with jax.enable_x64(True):
        refine = refiner(task.path, task.train, task.weights)
        small = mean_log(scorer(task.path, task.small), task.weights)
        names, first = zip(*baselines(task.path, nfe, task.eps))
        start = evolve(seed, first, nfe, small, effort._replace(generations=0))
        early, _ = refine_best(start, partial(refine, steps=effort.early), small, effort.refined)
        say(f"NFE {nfe}: published {np.exp(start.best[0]):.3g}, refined, {seconds()} s")
        found = evolve(seed, (*first, *early), nfe, small, effort)
        tau = mean(found.taus)
        say(f"NFE {nfe}: evolved {np.exp(found.best[-1]):.3g}, tau {tau}, {seconds()} s")
        last, _ = refine_best(found, partial(refine, steps=effort.late), small, effort.refined)
        finalists = [*last, *early, found.schedules[0], start.schedules[0]]
        judged = scorer(task.path, task.fresh)(finalists)
        winner = int(np.argmin(mean_log(lambda _: judged, task.weights)(finalists)))
        published = names[[*first].index(start.schedules[0])]
    about = {
        "nfe": nfe,
        "seed": seed,
        "fresh": rounded(judged[winner]),
        "published": {published: rounded(judged[-1])},
        "tau": tau,
        "effort": effort._asdict(),
        "seconds": seconds(),
        "evaluations": cost(task, nfe, effort, len(found.schedules)),
    }
    say(f"NFE {nfe}: {about}")
    return Result(finalists[winner], about)


def mean(values: Sequence[float]) -> float:
    return round(float(np.mean(values)), 2) if len(values) else float("nan")


def rounded(values: np.ndarray) -> list[float]:
    return [float(f"{v:.3g}") for v in values]


def cost(task: Task, nfe: int, effort: Effort, scored: int) -> dict[str, int]:
    """The number of network evaluations, counted per example: forward only, and with gradient."""
    size = lambda sets: sum(len(v.x) for v in sets)
    final = 2 * effort.refined + 2
    forward = nfe * (size(task.small) * (scored + effort.refined) + size(task.fresh) * final)
    steps = effort.refined * (effort.early + effort.late)
    return {"forward": forward, "with gradient": nfe * size(task.train) * steps}
