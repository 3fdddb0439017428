"""How the reverse process is integrated. One method a file, all behind `Sampler(init, step)`.

`PREDICTORS` and `CORRECTORS` are the names a config may use; `none` switches one off. `score_sde`
is the sampler of the released code, with steps of its own.
"""

from samplers.adams_bashforth import adams_bashforth
from samplers.adaptive import adaptive_ode, adaptive_sde
from samplers.ancestral import ancestral
from samplers.base import Sampler, SampleResult, State, chain, sample
from samplers.bdia import bdia, decode, invert
from samplers.corrector import annealed_langevin, langevin
from samplers.ddim import ddim
from samplers.dpm_adaptive import dpm_adaptive
from samplers.dpm_fast import dpm_fast
from samplers.dpm_multistep import dpm_multistep
from samplers.dpm_solver import dpm_solver
from samplers.edm import edm
from samplers.euler_maruyama import euler_maruyama
from samplers.grids import GRIDS, make_grid
from samplers.heun import heun
from samplers.predictor_corrector import predictor_corrector
from samplers.reverse_diffusion import reverse_diffusion
from samplers.score_sde import score_sde
from samplers.solve import SOLVERS, VARIABLES, Solver
from samplers.teleport import teleport
from samplers.unipc import unipc

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
}
CORRECTORS = {"langevin": langevin, "ald": annealed_langevin}

__all__ = [
    "CORRECTORS",
    "GRIDS",
    "PREDICTORS",
    "SOLVERS",
    "VARIABLES",
    "SampleResult",
    "Sampler",
    "Solver",
    "State",
    "adams_bashforth",
    "adaptive_ode",
    "adaptive_sde",
    "ancestral",
    "annealed_langevin",
    "bdia",
    "chain",
    "ddim",
    "decode",
    "dpm_adaptive",
    "dpm_fast",
    "dpm_multistep",
    "dpm_solver",
    "edm",
    "euler_maruyama",
    "heun",
    "invert",
    "langevin",
    "make_grid",
    "predictor_corrector",
    "reverse_diffusion",
    "sample",
    "score_sde",
    "teleport",
    "unipc",
]
