"""Inverse problems: samplers that know a measurement `y = A x0 + noise_std n` themselves.

`RESTORERS` take steps of their own. A measurement that is followed by a change of the prediction
function alone is a guide (`guidance/`).
"""

from restoration.ddrm import ddrm
from restoration.ensemble import ensemble
from restoration.impute import fill, impute
from restoration.misfit import Misfit, gaussian_misfit, measured_misfit
from restoration.particles import Ensemble, draws, weighted_moments
from restoration.repaint import repaint

RESTORERS = {"impute": impute, "repaint": repaint, "ddrm": ddrm, "ensemble": ensemble}

__all__ = [
    "RESTORERS",
    "Ensemble",
    "Misfit",
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
