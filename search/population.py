"""New schedules from old ones: mutation, crossover, and the repair that keeps them runnable.

The decisions and most of the rates are those of Liu et al. 2024 (arXiv 2312.07243) and its released
search. Every schedule here has one evaluation a step and fixed ends. Its number of steps is thus
the number of evaluations, less one for a last denoising.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.random import Generator

from samplers.schedules.schedule import Schedule, Step, check, nodes, points_of
from search.refine import numeric


class Rates(NamedTuple):
    """Probabilities of a change, by decision and step, and the sizes of the continuous ones."""

    change: float = 0.15
    swap: float = 0.2
    crossover: float = 0.3
    denoise: float = 0.1
    node: float = 0.08
    relax: float = 0.03
    orders: tuple[float, ...] = (0.2, 0.4, 0.3, 0.1)
    least_gap: float = 0.02


RATES = Rates()


def breed(rng: Generator, parents: list[Schedule], nfe: int, rates: Rates = RATES) -> Schedule:
    """A child of one parent, or of two that are crossed."""
    first = parents[rng.integers(len(parents))]
    if rng.random() < rates.crossover:
        first = cross(rng, first, parents[rng.integers(len(parents))], nfe, rates)
    return mutate(rng, first, nfe, rates)


def cross(rng: Generator, one: Schedule, two: Schedule, nfe: int, rates: Rates) -> Schedule:
    """A crossover, repaired: either the head of one schedule and the tail of the other, or the
    nodes of `one` with the decisions of each step from either schedule."""
    lengths = len(one.steps), len(two.steps)
    if rng.random() < 0.5:
        cut = rng.integers(1, min(lengths) + 1)
        at = one.steps[cut - 1].lam
        tail = [step for step in two.steps if step.lam > at + rates.least_gap]
        steps = [*one.steps[:cut], *tail]
    else:
        steps = [
            two.steps[i]._replace(lam=step.lam) if i < lengths[1] and rng.random() < 0.5 else step
            for i, step in enumerate(one.steps)
        ]
    return repair(one._replace(steps=tuple(steps)), nfe, nodes(one)[-1], rates)


def mutate(rng: Generator, schedule: Schedule, nfe: int, rates: Rates = RATES) -> Schedule:
    """A mutation, repaired: each decision of each step is drawn anew or moved with the probability
    `rates.change`, and one node is moved elsewhere with the probability `rates.swap`."""
    end = nodes(schedule)[-1]
    steps = [_mutate_step(rng, step, rates) for step in numeric(schedule).steps]
    if len(steps) > 2 and rng.random() < rates.swap:
        del steps[rng.integers(len(steps) - 1)]
        at = rng.integers(len(steps))
        before = steps[at - 1].lam if at else schedule.first
        middle = before + rng.uniform(0.3, 0.7) * (steps[at].lam - before)
        steps.insert(at, steps[at]._replace(lam=float(middle)))
    denoise = schedule.denoise != (rng.random() < rates.denoise)
    changed = schedule._replace(steps=tuple(steps), denoise=bool(denoise))
    return repair(changed, nfe, end, rates)


def _mutate_step(rng: Generator, step: Step, rates: Rates) -> Step:
    hit = lambda: rng.random() < rates.change
    changes = {}
    if hit():
        changes["lam"] = step.lam + rates.node * rng.standard_normal()
    if hit():
        changes["form"] = "noise" if rng.random() < 0.5 else "data"
    if hit():
        order = int(rng.choice(4, p=rates.orders)) + 1
        changes |= {"order": order, "points": (), "relax": ()}
    if hit():
        changes["start"] = -1 if rng.random() < 0.8 else -2
    if hit():
        order = changes.get("order", step.order)
        changes["points"] = tuple(int(rng.integers(k, 4)) for k in range(1, order))
    if hit():
        changes["corrector"] = "none" if rng.random() < 0.5 else "pseudo"
    moved = step._replace(**changes)
    wiggle = lambda values: tuple(
        float(c + rates.relax * rng.standard_normal()) if hit() else c for c in values
    )
    return moved._replace(relax=wiggle(moved.relax), corrector_relax=wiggle(moved.corrector_relax))


def repair(schedule: Schedule, nfe: int, end: float, rates: Rates = RATES) -> Schedule:
    """A schedule near this one that has `nfe` evaluations, ends at lam = `end` and can be run."""
    count, gap = nfe - schedule.denoise, rates.least_gap
    steps = sorted(schedule.steps, key=lambda step: step.lam)
    steps = [step for step in steps if schedule.first + gap < step.lam < end - gap][: count - 1]
    steps.append(schedule.steps[-1]._replace(lam=float(end)))
    while len(steps) < count:
        lam = np.asarray([schedule.first, *(step.lam for step in steps)])
        widest = int(np.argmax(np.diff(lam)))
        middle = float(lam[widest : widest + 2].mean())
        steps.insert(widest, steps[widest]._replace(lam=middle))
    lam = _spread([schedule.first, *(step.lam for step in steps)], gap)
    fixed = [_runnable(step, i, i == count - 1) for i, step in enumerate(steps)]
    steps = tuple(step._replace(lam=float(at)) for step, at in zip(fixed, lam[1:]))
    return check(schedule._replace(steps=steps))


def _spread(lam: list[float], gap: float) -> np.ndarray:
    """The nodes with gaps of at least `gap` and unmoved ends. The length added to short gaps is
    taken from the other gaps in proportion to their excess over `gap`."""
    gaps = np.diff(lam)
    raised = np.maximum(gaps, gap)
    over = raised - gap
    scale = (lam[-1] - lam[0] - gap * len(gaps)) / max(over.sum(), 1e-300)
    return np.concatenate([[lam[0]], lam[0] + np.cumsum(gap + over * scale)])


def _runnable(step: Step, i: int, last: bool) -> Step:
    """The step with its order, points and start limited to what step i can have."""
    order = min(step.order, i + 1)
    most = min(3, i)
    points = tuple(min(max(m, k), most) for k, m in enumerate(points_of(step), 1))[: order - 1]
    corrector = "none" if last else step.corrector
    late = step.corrector_relax[:order] if corrector != "none" else ()
    return step._replace(
        start=max(step.start, -i - 1),
        order=order,
        points=points,
        relax=step.relax[: order - 1],
        corrector=corrector,
        corrector_relax=late,
    )


def children(
    rng: Generator,
    parents: list[Schedule],
    nfe: int,
    count: int,
    make: Callable[..., Schedule] = breed,
) -> list[Schedule]:
    return [make(rng, parents, nfe) for _ in range(count)]
