"""What extra information is followed: functions from prediction function to prediction function.

`GUIDES` are for a measurement `y = A x0 + noise_std n`; each is called as
`guide(path, operator, y, noise_std, **options)` and gives a `GuideFn`. `RESTORERS` know y
themselves and take steps of their own. `CLASS_GUIDES` are for classes.
"""

from guidance.annealed import annealed, redrawn
from guidance.base import GuideFn, through_network, with_pullback, with_score
from guidance.cfg import classifier_free
from guidance.classifier import classifier_guidance
from guidance.ddrm import ddrm
from guidance.dps import dps, dps_steps
from guidance.energy import energy_guidance
from guidance.ensemble import ensemble
from guidance.impute import fill, impute
from guidance.misfit import Misfit, gaussian_misfit, measured_misfit
from guidance.mmps import mmps
from guidance.operators import OPERATORS, LinearOperator, measure
from guidance.particles import Ensemble, draws, weighted_moments
from guidance.pigdm import pigdm
from guidance.posterior import (
    Mixture,
    gaussian_posterior,
    mixture_moments,
    mixture_posterior,
    mixture_predict,
)
from guidance.regional import check_travel, regional, time_travel
from guidance.repaint import repaint
from guidance.sdedit import edit_grid, edit_time, flow_edit, sdedit

GUIDES = {"dps": dps, "pigdm": pigdm, "mmps": mmps, "annealed": annealed}
RESTORERS = {"impute": impute, "repaint": repaint, "ddrm": ddrm, "ensemble": ensemble}
CLASS_GUIDES = {"classifier_free": classifier_free, "classifier": classifier_guidance}
METHODS = {**CLASS_GUIDES, **GUIDES, **RESTORERS}

__all__ = [
    "CLASS_GUIDES",
    "GUIDES",
    "METHODS",
    "OPERATORS",
    "RESTORERS",
    "Ensemble",
    "GuideFn",
    "LinearOperator",
    "Misfit",
    "Mixture",
    "annealed",
    "check_travel",
    "classifier_free",
    "classifier_guidance",
    "ddrm",
    "dps",
    "dps_steps",
    "draws",
    "edit_grid",
    "edit_time",
    "energy_guidance",
    "ensemble",
    "fill",
    "flow_edit",
    "gaussian_misfit",
    "gaussian_posterior",
    "impute",
    "measure",
    "measured_misfit",
    "mixture_moments",
    "mixture_posterior",
    "mixture_predict",
    "mmps",
    "pigdm",
    "redrawn",
    "regional",
    "repaint",
    "sdedit",
    "through_network",
    "time_travel",
    "weighted_moments",
    "with_pullback",
    "with_score",
]
