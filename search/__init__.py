"""The search for solver schedules: how a candidate is scored, changed, ranked and refined.

Liu et al. 2024 (arXiv 2312.07243). `tools/search_solver.py` is the command.
"""

from search.evolve import Effort, evolve, refine_best
from search.known import baselines, multistep, single
from search.refine import refiner
from search.run import Result, Task, search
from search.score import Trajectories, scorer, trajectories

__all__ = [
    "Effort",
    "Result",
    "Task",
    "Trajectories",
    "baselines",
    "evolve",
    "multistep",
    "refine_best",
    "refiner",
    "scorer",
    "search",
    "single",
    "trajectories",
]
