"""Integrators of the reverse process, one method a file, all behind `Sampler(init, step)`.

`PREDICTORS` and `CORRECTORS` hold the names that a config may use; `none` switches one off.
`score_sde` is the sampler of the released code and has its own steps.
"""

from samplers.adaptive.diffrax_solves import adaptive_ode, adaptive_sde
from samplers.adaptive.dpm_adaptive import dpm_adaptive
from samplers.adaptive.frame import VARIABLES
from samplers.adaptive.solver import SOLVERS, Solver, check_solver
from samplers.around.boundary import candidate_scores, from_boundary
from samplers.around.lml import lml
from samplers.around.restart import Restarts, restart
from samplers.around.teleport import teleport
from samplers.base import Kernel, Sampler, SampleResult, Span, State, chain, sample
from samplers.exponential.adams_bashforth import adams_bashforth
from samplers.exponential.dpm_fast import dpm_fast
from samplers.exponential.dpm_multistep import dpm_multistep
from samplers.exponential.dpm_solver import dpm_solver
from samplers.exponential.unified import unified
from samplers.exponential.unipc import unipc
from samplers.exponential.velocity_ab import velocity_ab
from samplers.exponential.weighted import weighted
from samplers.grids import GRIDS, make_grid
from samplers.released.score_sde import score_sde
from samplers.schedules.schedule import Schedule, Step
from samplers.schedules.two_stage_grid import RECIPES, early_end
from samplers.steps.ancestral import ancestral
from samplers.steps.bdia import bdia, decode, invert
from samplers.steps.corrector import annealed_langevin, langevin
from samplers.steps.ddim import ddim
from samplers.steps.edm import edm
from samplers.steps.euler_maruyama import euler_maruyama
from samplers.steps.heun import heun
from samplers.steps.predictor_corrector import predictor_corrector
from samplers.steps.restoration_degradation import (
    euler_restoration,
    number_of_steps,
    restoration_degradation,
    root_of_step,
    share_of_time,
)
from samplers.steps.reverse_diffusion import reverse_diffusion

PREDICTORS = {
    "euler_maruyama": euler_maruyama,
    "reverse_diffusion": reverse_diffusion,
    "ancestral": ancestral,
    "ddim": ddim,
    "heun": heun,
    "dpm_solver": dpm_solver,
    "dpm_multistep": dpm_multistep,
    "adams_bashforth": adams_bashforth,
    "unipc": unipc,
    "edm": edm,
    "bdia": bdia,
    "restoration_degradation": restoration_degradation,
    "velocity_ab": velocity_ab,
    "weighted": weighted,
}
CORRECTORS = {"langevin": langevin, "ald": annealed_langevin}

__all__ = [
    "CORRECTORS",
    "GRIDS",
    "PREDICTORS",
    "RECIPES",
    "SOLVERS",
    "VARIABLES",
    "Kernel",
    "Restarts",
    "SampleResult",
    "Sampler",
    "Schedule",
    "Solver",
    "Span",
    "State",
    "Step",
    "adams_bashforth",
    "adaptive_ode",
    "adaptive_sde",
    "ancestral",
    "annealed_langevin",
    "bdia",
    "candidate_scores",
    "chain",
    "check_solver",
    "ddim",
    "decode",
    "dpm_adaptive",
    "dpm_fast",
    "dpm_multistep",
    "dpm_solver",
    "early_end",
    "edm",
    "euler_maruyama",
    "euler_restoration",
    "from_boundary",
    "heun",
    "invert",
    "langevin",
    "lml",
    "make_grid",
    "number_of_steps",
    "predictor_corrector",
    "restart",
    "restoration_degradation",
    "reverse_diffusion",
    "root_of_step",
    "sample",
    "score_sde",
    "share_of_time",
    "teleport",
    "unified",
    "unipc",
    "velocity_ab",
    "weighted",
]
