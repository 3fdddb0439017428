"""What several methods of sampling are made of: solvers, grids, and one step of a method."""

from collections.abc import Callable
from typing import NamedTuple

from jax import Array
from ml_collections import ConfigDict

import samplers
import sde_lib
from builders.checks import choose

SAMPLER_ALIASES = {"ancestral_sampling": "ancestral"}


class Known(NamedTuple):
    """What some methods must know besides their section and the law.

    `continuous`: the network knows all times, not just levels. `moments() -> Moments` reads the
    training data; it is called only by what needs them.
    """

    continuous: bool = True
    moments: Callable[[], sde_lib.Moments] | None = None


def build_solver(name: str, section: ConfigDict) -> samplers.Solver:
    known = (*samplers.SOLVERS, "adams") if name == "likelihood" else samplers.SOLVERS
    choose(f"{name}.solver", section.solver, known)
    choose(f"{name}.variable", section.variable, samplers.VARIABLES)
    return samplers.Solver(
        section.solver,
        section.rtol,
        section.atol,
        section.max_steps,
        section.variable,
        section.sigma_data,
    )


def build_grid(section: ConfigDict, path: sde_lib.AffinePath) -> Array:
    return samplers.make_grid(section.grid, path, section.steps, build_end(section, path))


def build_end(section: ConfigDict, path: sde_lib.AffinePath) -> float:
    """The last node: eps, or where the recipe of the two-stage grid stops."""
    if section.grid != "two_stage":
        return section.eps
    return samplers.early_end(path, samplers.RECIPES[section.recipe], section.eps)


def build_method(section: ConfigDict, path: sde_lib.AffinePath) -> samplers.Sampler:
    """The predictor and the corrector of one step."""
    predictor = build_predictor(section, path)
    corrector = build_corrector(section, path, section.n_steps_each)
    return samplers.predictor_corrector(predictor, corrector, section.order)


def build_parts(section: ConfigDict, path: sde_lib.AffinePath) -> list[samplers.Sampler]:
    """The same one by one and in order, each step of the corrector by itself: for what has to act
    after each of them."""
    predictor, corrector = build_predictor(section, path), build_corrector(section, path, 1)
    correctors = [corrector] * section.n_steps_each
    parts = [predictor, *correctors] if section.order == "paper" else [*correctors, predictor]
    return [part for part in parts if part is not None]


def build_predictor(section: ConfigDict, path: sde_lib.AffinePath) -> samplers.Sampler | None:
    """The predictor of one step, None if there is none."""
    fast = {"order": section.solver_order, "form": section.form}
    churn = {key: section[key] for key in ("steps", "s_churn", "s_tmin", "s_tmax", "s_noise")}
    own = {
        "ancestral": {"variance": section.variance},
        "ddim": {"eta": section.eta},
        "dpm_solver": fast,
        "dpm_multistep": {**fast, "eta": section.eta},
        "adams_bashforth": fast,
        "unipc": {**fast, "variant": section.variant},
        "edm": {**churn, "eta": section.eta},
        "bdia": {"gamma": section.gamma, "frame": "unit"},
        "restoration": {"look_back": section.look_back},
        "velocity_ab": {"order": section.solver_order, "sigma_data": section.sigma_data},
        "euler_maruyama": {"probability_flow": section.probability_flow},
        "reverse_diffusion": {"probability_flow": section.probability_flow},
    }
    name = SAMPLER_ALIASES.get(section.predictor, section.predictor)
    if name == "none":
        if section.corrector == "none":
            raise ValueError("sampling.predictor and sampling.corrector are both 'none'; name one.")
        return None
    if section.probability_flow and "probability_flow" not in own.get(name, {}):
        raise ValueError(
            f"sampling.probability_flow is set, but the predictor {name!r} has no such form; "
            "take euler_maruyama or reverse_diffusion."
        )
    predictor = samplers.PREDICTORS[name](path, **own.get(name, {}))
    return build_lml(section, path, name, predictor) if section.lml else predictor


def build_corrector(
    section: ConfigDict, path: sde_lib.AffinePath, n_steps: int
) -> samplers.Sampler | None:
    """The corrector of one step, None if there is none."""
    if section.corrector == "none":
        return None
    make = samplers.CORRECTORS[section.corrector]
    at = "end" if section.order == "paper" else "start"
    return make(path, section.snr, n_steps, section.norm, at)


def build_lml(
    section: ConfigDict, path: sde_lib.AffinePath, name: str, predictor: samplers.Sampler
) -> samplers.Sampler:
    """The predictor with its direction turned; refused where noise would be turned with it."""
    solves = name in ("heun", "dpm_solver", "adams_bashforth", "unipc", "velocity_ab")
    solves = solves or (name in ("ddim", "dpm_multistep", "edm") and section.eta == 0)
    solves = solves and not (name == "edm" and section.s_churn)
    solves = solves or (name == "euler_maruyama" and section.probability_flow)
    turns_eps = name == "ddim" and section.lml_placement == "direction"
    if not (solves or turns_eps):
        raise ValueError(
            f"sampling.lml is {section.lml} around the predictor {name!r}, whose noise or memory "
            "it would turn too; take ddim, dpm_solver, dpm_multistep, adams_bashforth or unipc "
            "without noise, or set sampling.lml=0."
        )
    return samplers.lml(path, predictor, section.lml, section.lml_placement, section.lml_freeze)
