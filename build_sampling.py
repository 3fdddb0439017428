"""The section `sampling` of a config as one function `(key, predict, x) -> SampleResult`.

`METHODS` has one builder a method; those that take fixed steps down a grid share `build_method`.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array
from ml_collections import ConfigDict

import samplers
import sde_lib
from check import choose
from models.noise_level import FILE, Trained, load
from samplers import schedule as schedules
from samplers.base import SampleFn, SampleResult
from samplers.denoising_mcmc import denoising_mcmc
from samplers.exponential import FORMS
from samplers.langevin_gibbs import Walk
from samplers.learned import schedule_file
from samplers.levels import UPDATES, make_levels
from samplers.lml import PLACEMENTS
from samplers.unipc import VARIANTS
from sde_lib.prediction import PredictFn

SAMPLER_ALIASES = {"ancestral_sampling": "ancestral"}
NAMES = {
    "predictor": ("none", *samplers.PREDICTORS),
    "corrector": ("none", *samplers.CORRECTORS),
    "order": ("paper", "original"),
    "norm": ("example", "batch"),
    "variance": ("posterior", "forward"),
    "form": FORMS,
    "variant": VARIANTS,
    "lml_placement": PLACEMENTS,
    "chain_update": UPDATES,
    "grid": samplers.GRIDS,
    "recipe": samplers.RECIPES,
    "solver": samplers.SOLVERS,
    "variable": samplers.VARIABLES,
    "batching": ("example", "batch"),
}


class Known(NamedTuple):
    """What some methods must know besides their section and the law.

    `continuous`: the network knows all times, not just levels. `moments() -> Moments` reads the
    training data; it is called only by what needs them.
    """

    continuous: bool = True
    moments: Callable[[], sde_lib.Moments] | None = None


def build_sampler(
    section: ConfigDict,
    path: sde_lib.AffinePath,
    known: Known = Known(),  # noqa: B008 - an immutable tuple
) -> SampleFn:
    """`(key, predict, x) -> SampleResult` by the configured method."""
    check_names(section)
    return METHODS[section.method](section, path, known)


def check_names(section: ConfigDict) -> None:
    """Refuses a name that is not known, whether or not the method reads that key: a misspelling is
    one, and nobody should find out after the training."""
    for key, known in {"method": METHODS, **NAMES}.items():
        name = SAMPLER_ALIASES.get(section[key], section[key])
        choose(f"sampling.{key}", name, known)


def build_fixed_steps(section: ConfigDict, path: sde_lib.AffinePath, known: Known) -> SampleFn:
    """A predictor and a corrector down a grid, the first part of which may be jumped over."""
    method, ts = build_method(section, path), build_grid(section, path)

    restarts = build_restarts(section)
    if restarts:
        samplers.restart(path, method, ts, restarts)  # refused here, if at all

    def run(key: Array, predict: PredictFn, x: Array, ts: Array = ts, collect=None) -> SampleResult:
        if restarts:
            again = samplers.restart(path, method, ts, restarts, section.denoise)
            return again(key, predict, x, collect)
        return samplers.sample(key, predict, method, x, ts, collect, section.denoise)

    if not section.teleport_sigma:
        return run
    flow = partial(sde_lib.gaussian_flow, path, known.moments())
    return samplers.teleport(flow, run, path, ts, section.teleport_sigma)


def build_restarts(section: ConfigDict) -> list[samplers.Restarts]:
    """One for each row `(low, high, times, steps)` of `sampling.restarts`."""
    rows = []
    for row in section.restarts:
        if not isinstance(row, tuple) or len(row) != 4 or any(int(n) != n for n in row[2:]):
            raise ValueError(
                f"sampling.restarts has the row {row!r}; a row is (low, high, times, steps), two "
                "noise levels and two whole numbers, and the rows stand in a tuple."
            )
        rows.append(samplers.Restarts(row[0], row[1], int(row[2]), int(row[3])))
    return rows


def build_unified(section: ConfigDict, path: sde_lib.AffinePath, known: Known) -> SampleFn:
    """The schedule's own steps, nodes and last denoising, from t1 to `sampling.eps`."""
    if not section.schedule:
        raise ValueError(
            "sampling.schedule is empty; name one of configs/solvers/, such as digits_10, or give "
            "the path of a file."
        )
    schedule = schedules.load(schedule_file(section.schedule))
    mean = 0.0
    if schedule.analytic:
        mean = jnp.asarray(known.moments().mean)
    return samplers.unified(path, schedule, section.eps, mean=mean)


def build_grid(section: ConfigDict, path: sde_lib.AffinePath) -> Array:
    return samplers.make_grid(section.grid, path, section.steps, build_end(section, path))


def build_end(section: ConfigDict, path: sde_lib.AffinePath) -> float:
    """The last node: eps, or where the recipe of the two-stage grid stops."""
    if section.grid != "two_stage":
        return section.eps
    return samplers.early_end(path, samplers.RECIPES[section.recipe], section.eps)


def build_ode(section: ConfigDict, path: sde_lib.AffinePath, known: Known) -> SampleFn:
    del known
    solver, per_example = build_solver("sampling", section), section.batching == "example"
    return samplers.adaptive_ode(path, section.eps, solver, per_example, section.denoise)


def build_sde(section: ConfigDict, path: sde_lib.AffinePath, known: Known) -> SampleFn:
    del known
    solver = build_solver("sampling", section)
    solver = solver._replace(rtol=section.sde_rtol, atol=section.sde_atol)
    return samplers.adaptive_sde(path, section.eps, solver, section.denoise, eta=section.sde_eta)


def build_dpm_fast(section: ConfigDict, path: sde_lib.AffinePath, known: Known) -> SampleFn:
    del known
    return samplers.dpm_fast(
        path,
        section.steps,
        build_end(section, path),
        section.form,
        section.grid,
        section.denoise,
    )


def build_dpm_adaptive(section: ConfigDict, path: sde_lib.AffinePath, known: Known) -> SampleFn:
    del known
    per_example = section.batching == "example"
    return samplers.dpm_adaptive(
        path,
        section.eps,
        section.solver_order,
        section.form,
        per_example=per_example,
        denoise=section.denoise,
    )


def build_score_sde(section: ConfigDict, path: sde_lib.AffinePath, known: Known) -> SampleFn:
    return samplers.score_sde(
        path,
        SAMPLER_ALIASES.get(section.predictor, section.predictor),
        section.corrector,
        num_scales=section.steps,
        eps=section.eps,
        snr=section.snr,
        n_steps=section.n_steps_each,
        denoise=section.denoise,
        probability_flow=section.probability_flow,
        continuous=known.continuous,
        norm=section.norm,
    )


def build_denoising_mcmc(section: ConfigDict, path: sde_lib.AffinePath, known: Known) -> SampleFn:
    """Chains that begin with a run of Heun, and whose states the configured method denoises."""
    del known
    network = build_level_network(section)
    levels = make_levels(path, network.options["levels"], network.sigma_min, network.sigma_max)
    ts = samplers.make_grid(section.grid, path, section.chain_start_steps, section.eps)
    walk = Walk(
        section.chain_eta,
        section.chain_moves,
        section.chain_update,
        build_burn_in(section),
        section.chain_start_std,
    )

    def start(key: Array, predict: PredictFn, x: Array) -> SampleResult:
        return samplers.sample(key, predict, samplers.heun(path), x, ts, denoise=True)

    return denoising_mcmc(
        path,
        levels,
        network.logits,
        start,
        build_method(section, path),
        walk,
        steps=section.steps,
        eps=section.eps,
        grid=section.grid,
        outputs=section.chain_outputs,
    )


def build_level_network(section: ConfigDict) -> Trained:
    """The network of p(level | y), which must be there before anything is built on it."""
    if not section.denoise:
        raise ValueError(
            "sampling.denoise is False, and sampling.method 'denoising_mcmc' ends with the "
            "conditional mean of the data always; set it to True."
        )
    if section.batch_size % section.chain_outputs:
        raise ValueError(
            f"sampling.batch_size is {section.batch_size} and sampling.chain_outputs "
            f"{section.chain_outputs}; a batch is made of whole chains: make it a multiple."
        )
    if not section.chain_network:
        raise ValueError(
            "sampling.chain_network is empty; train a network of the noise level with `python -m "
            "tools.train_noise_level --config FILE --workdir DIR` and name its folder with "
            "--config.sampling.chain_network=DIR."
        )
    return load(Path(section.chain_network) / FILE)


def build_burn_in(section: ConfigDict) -> tuple[tuple[int, float], ...]:
    """The rows `(number, eta)` of `sampling.chain_burn_in`."""
    for row in section.chain_burn_in:
        if not isinstance(row, tuple) or len(row) != 2 or int(row[0]) != row[0]:
            raise ValueError(
                f"sampling.chain_burn_in has the row {row!r}; a row is (number of moves, step "
                "size), and the rows stand in a tuple."
            )
    return tuple((int(number), eta) for number, eta in section.chain_burn_in)


METHODS: dict[str, Callable[..., SampleFn]] = {
    "pc": build_fixed_steps,
    "ode": build_ode,
    "sde": build_sde,
    "score_sde": build_score_sde,
    "dpm_fast": build_dpm_fast,
    "dpm_adaptive": build_dpm_adaptive,
    "unified": build_unified,
    "denoising_mcmc": build_denoising_mcmc,
}


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
