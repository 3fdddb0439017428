"""Inverse problems: samplers that use a measurement `y = A x0 + noise_std n` in their steps.

`RESTORERS` have steps of their own: each is called as `restorer(problem, **options)` and returns a
`Restorer`. A method that only changes the prediction function is a guide (`guidance/`). `METHODS`
holds both.
"""

from collections import ChainMap

from guidance import GUIDES
from restoration.base import Problem, Restorer
from restoration.ddrm import by_ddrm, ddrm
from restoration.ensemble import ensemble
from restoration.from_ensemble import by_ensemble
from restoration.impute import by_imputing, fill, impute
from restoration.misfit import Misfit, gaussian_misfit, measured_misfit
from restoration.particles import Ensemble, draws, weighted_moments
from restoration.repaint import by_repainting, repaint

RESTORERS = {
    "impute": by_imputing,
    "repaint": by_repainting,
    "ddrm": by_ddrm,
    "ensemble": by_ensemble,
}
METHODS = ChainMap(RESTORERS, GUIDES)

__all__ = [
    "METHODS",
    "RESTORERS",
    "Ensemble",
    "Misfit",
    "Problem",
    "Restorer",
    "ddrm",
    "draws",
    "ensemble",
    "fill",
    "gaussian_misfit",
    "impute",
    "measured_misfit",
    "repaint",
    "weighted_moments",
]
