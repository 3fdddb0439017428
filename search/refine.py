"""The continuous refinement of a schedule: its nodes and relaxations by gradient.

The discrete decisions are fixed. Two sets of numbers are optimised: the lengths of the steps in
`lam`, as shares of the whole by a softmax, so that nodes stay in order; and the numbers c of the
relaxations `1 + c h`, one for each derivative of each predictor and corrector. The gradient goes
through the sampler and the network. The loss is the mean logarithm of the distances, a smooth
substitute for the logarithm of their median. Like the median, it is not dominated by a few starts
at the border between two modes.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from samplers.exponential.tableau import Rule, correcting_points, phis, relaxation, structure
from samplers.schedules.schedule import Schedule, check, nodes, points_of
from sde_lib import AffinePath
from search.score import Candidate, Trajectories, candidate, distances

# Distances per pixel below this count as zero.
FLOOR = 1e-7


class Knobs(NamedTuple):
    """The optimised numbers: logarithms of the step lengths `(N,)`, c of predictors and
    correctors `(N, WIDTH)`."""

    gaps: Array
    predict: Array
    correct: Array


class Descent(NamedTuple):
    """The state of a refinement: the knobs, Adam's state, the best knobs so far and their loss."""

    knobs: Knobs
    state: optax.OptState
    best: Knobs
    least: Array


def numeric(schedule: Schedule) -> Schedule:
    """The same schedule with every relaxation as a number c, equal to the named one at its h."""
    lam, parts = np.asarray(nodes(schedule)), structure(schedule)
    n = np.arange(len(schedule.steps))
    h = lam[n + 1] - lam[n - parts.predict.start]

    def numbers(rule: Rule) -> np.ndarray:
        factor = relaxation(rule, h, phis(np.where(rule.data, -h, h)))
        return (factor - 1.0) / h[:, None]

    predict, correct = numbers(parts.predict), numbers(parts.correct)
    steps = []
    for step, c, d in zip(schedule.steps, predict, correct):
        fixed = len(correcting_points(step)) if step.corrector != "none" else 0
        relax, late = c[: len(points_of(step))], d[:fixed]
        steps.append(step._replace(relax=floats(relax), corrector_relax=floats(late)))
    return schedule._replace(steps=tuple(steps))


def floats(values: np.ndarray) -> tuple[float, ...]:
    return tuple(float(v) for v in values)


def knobs_of(schedule: Schedule) -> Knobs:
    parts = candidate(schedule).parts
    gaps = np.log(np.diff(nodes(schedule)))
    return Knobs(*map(jnp.asarray, (gaps, parts.predict.c, parts.correct.c)))


def with_knobs(base: Candidate, knobs: Knobs) -> Candidate:
    """The candidate with its nodes and numbers replaced; its ends stay."""
    lam = jnp.asarray(base.lam)
    inner = jnp.cumsum(jax.nn.softmax(knobs.gaps))[:-1]
    lam = lam.at[1:-1].set(lam[0] + (lam[-1] - lam[0]) * inner)
    parts = base.parts._replace(
        predict=base.parts.predict._replace(c=knobs.predict),
        correct=base.parts.correct._replace(c=knobs.correct),
    )
    return base._replace(lam=lam, parts=parts)


def with_numbers(schedule: Schedule, found: Candidate) -> Schedule:
    """The schedule with the nodes and numbers of a candidate of its own structure."""
    steps = []
    rows = zip(schedule.steps, found.lam[1:], found.parts.predict.c, found.parts.correct.c)
    for step, lam, c, d in rows:
        relax, late = c[: len(step.relax)], d[: len(step.corrector_relax)]
        late, relax = floats(late), floats(relax)
        steps.append(step._replace(lam=float(lam), relax=relax, corrector_relax=late))
    return check(schedule._replace(steps=tuple(steps)))


def refiner(
    path: AffinePath,
    sets: Sequence[Trajectories],
    weights: Sequence[float],
    rate: float = 0.02,
    decay: float = 1e-3,
) -> Callable[..., tuple[Schedule, np.ndarray]]:
    """`(schedule, steps) -> (refined, losses)`, by Adam with a rate that falls along a cosine.

    Args:
        weights: of the sets in the loss.
        decay: of the squares of `c`, which keeps a relaxation at 1 where it does nothing.

    The result is the best of all iterates, so its loss is never above that of the start. One
    compiled step serves all schedules of a length.
    """
    share = np.asarray(weights) / np.sum(weights)
    adam = optax.scale_by_adam()

    def loss(knobs: Knobs, base: Candidate, denoise: bool):
        found = with_knobs(base, knobs)
        logs = [jnp.mean(jnp.log(distances(path, v, found, denoise) + FLOOR)) for v in sets]
        size = jnp.sum(knobs.predict**2) + jnp.sum(knobs.correct**2)
        return jnp.dot(jnp.stack(logs), share) + decay * size / len(knobs.gaps)

    def descend(descent: Descent, base: Candidate, rate, denoise: bool):
        knobs, state, best, least = descent
        value, gradient = jax.value_and_grad(loss)(knobs, base, denoise)
        best = jax.tree.map(lambda new, old: jnp.where(value < least, new, old), knobs, best)
        gradient = jax.tree.map(lambda g: jnp.where(jnp.isfinite(g), g, 0.0), gradient)
        moves, state = adam.update(gradient, state)
        moved = jax.tree.map(lambda knob, move: knob - rate * move, knobs, moves)
        return Descent(moved, state, best, jnp.minimum(value, least)), value

    run = jax.jit(descend, static_argnames="denoise")

    def refine(schedule: Schedule, steps: int) -> tuple[Schedule, np.ndarray]:
        schedule = numeric(schedule)
        base, knobs = candidate(schedule), knobs_of(schedule)
        descent, values = Descent(knobs, adam.init(knobs), knobs, jnp.asarray(jnp.inf)), []
        for i in range(steps):
            now = 0.5 * rate * (1.0 + np.cos(np.pi * i / steps))
            descent, value = run(descent, base, now, schedule.denoise)
            values.append(value)
        found = jax.tree.map(np.asarray, with_knobs(base, descent.best))
        return with_numbers(schedule, found), np.asarray(values)

    return refine
