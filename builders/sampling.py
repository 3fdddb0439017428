"""The section `sampling` of a config as one function `(key, predict, x) -> SampleResult`.

`METHODS` has one builder a method; what several of them are made of is in `steps.py`.
"""

from collections.abc import Callable
from functools import partial

import jax.numpy as jnp
from jax import Array
from ml_collections import ConfigDict

import samplers
import sde_lib
from builders.chains import build_denoising_mcmc
from builders.checks import choose
from builders.steps import SAMPLER_ALIASES, Known, build_end, build_grid, build_method, build_solver
from samplers import schedule as schedules
from samplers.base import SampleFn, SampleResult
from samplers.exponential import FORMS
from samplers.learned import schedule_file
from samplers.levels import UPDATES
from samplers.lml import PLACEMENTS
from samplers.unipc import VARIANTS
from sde_lib.prediction import PredictFn

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

    def run(
        key: Array, predict: PredictFn, x: Array, ts: Array = ts, collect=None, frames=None
    ) -> SampleResult:
        if restarts:
            again = samplers.restart(path, method, ts, restarts, section.denoise)
            return again(key, predict, x, collect, frames)
        return samplers.sample(key, predict, method, x, ts, collect, section.denoise, frames)

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
