"""How the reverse process is integrated. One method a file, all behind `Sampler(init, step)`.

`PREDICTORS` and `CORRECTORS` are the names a config may use; `none` switches one off. `score_sde`
is the sampler of the released code, with steps of its own.
"""

from samplers.adaptive import adaptive_ode, adaptive_sde
from samplers.ancestral import ancestral
from samplers.base import Sampler, SampleResult, State, chain, sample
from samplers.corrector import annealed_langevin, langevin
from samplers.ddim import ddim
from samplers.euler_maruyama import euler_maruyama
from samplers.grids import GRIDS, make_grid
from samplers.heun import heun
from samplers.predictor_corrector import predictor_corrector
from samplers.reverse_diffusion import reverse_diffusion
from samplers.score_sde import score_sde
from samplers.solve import SOLVERS, VARIABLES, Solver

PREDICTORS = {
    "euler_maruyama": euler_maruyama,
    "reverse_diffusion": reverse_diffusion,
    "ancestral": ancestral,
    "ddim": ddim,
    "heun": heun,
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
    "adaptive_ode",
    "adaptive_sde",
    "ancestral",
    "annealed_langevin",
    "chain",
    "ddim",
    "euler_maruyama",
    "heun",
    "langevin",
    "make_grid",
    "predictor_corrector",
    "reverse_diffusion",
    "sample",
    "score_sde",
]
