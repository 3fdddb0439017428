"""Evolution of schedules with a learned ranking, and the refinement of the best.

Liu et al. 2024 (arXiv 2312.07243), sections 4 and 5, with the score of `score.py` in place of FID
and with the refinement of `refine.py`, which needs only a differentiable network.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from samplers.schedules.schedule import Schedule, points_of
from search.population import children
from search.ranking import Ranker, agreement

ScoreFn = Callable[[Sequence[Schedule]], np.ndarray]
RefineFn = Callable[[Schedule], tuple[Schedule, np.ndarray]]


class Effort(NamedTuple):
    """The size of a search.

    - `generations` of the evolution, each with `bred` children of the best `parents` schedules. Of
      the children, the `ranked` best by the ranking are scored, and `lots` random ones, which also
      measure the ranking.
    - `refined` kinds of schedules are refined, by `early` steps before the evolution and by `late`
      steps after it.
    """

    generations: int = 5
    bred: int = 160
    ranked: int = 24
    lots: int = 8
    parents: int = 15
    refined: int = 2
    early: int = 60
    late: int = 300


EFFORT = Effort()


class Found(NamedTuple):
    """All schedules scored and their scores, least first; the best score after each generation; and
    Kendall's tau of the ranking on schedules it had not seen, by generation."""

    schedules: list[Schedule]
    scores: np.ndarray
    best: list[float]
    taus: list[float]


def evolve(
    seed: int, first: Sequence[Schedule], nfe: int, score: ScoreFn, effort: Effort = EFFORT
) -> Found:
    """Evolve a first population. It is kept, so the result is never worse than its best member.

    Args:
        first: schedules of `nfe` evaluations with one evaluation a step.
        score: `schedules -> (S,)`, less is better.

    The same seed gives the same search.
    """
    rng = np.random.default_rng(seed)
    known, scores = list(first), score(first)
    best, taus = [float(scores.min())], []
    for generation in range(effort.generations):
        order = np.argsort(scores, kind="stable")
        parents = [known[i] for i in order[: effort.parents]]
        young = children(rng, parents, nfe, effort.bred)
        ranker = Ranker(nfe, seed + generation)
        ranker.fit(known, scores)
        guess = ranker.predict(young)
        lots = rng.permutation(len(young))[: effort.lots]
        chosen = [i for i in np.argsort(guess, kind="stable") if i not in lots][: effort.ranked]
        tried = [young[i] for i in (*lots, *chosen)]
        found = score(tried)
        taus.append(agreement(guess[lots], found[: len(lots)]))
        known, scores = known + tried, np.concatenate([scores, found])
        best.append(float(scores.min()))
    order = np.argsort(scores, kind="stable")
    return Found([known[i] for i in order], scores[order], best, taus)


def refine_best(
    found: Found, refine: RefineFn, score: ScoreFn, count: int
) -> tuple[list[Schedule], np.ndarray]:
    """The `count` best of each kind refined, with their scores, least first.

    Schedules that differ only in nodes and relaxations form one kind, because refinement leads them
    to similar results.
    """
    kinds = {}
    for schedule in found.schedules:
        kinds.setdefault(kind(schedule), schedule)
    refined = [refine(schedule)[0] for schedule in list(kinds.values())[:count]]
    scores = score(refined)
    order = np.argsort(scores, kind="stable")
    return [refined[i] for i in order], scores[order]


def kind(schedule: Schedule) -> tuple:
    """The decisions that a refinement does not change: forms, starts, orders, points, correctors
    and `denoise`."""
    steps = tuple((s.form, s.start, s.order, points_of(s), s.corrector) for s in schedule.steps)
    return schedule.denoise, steps
