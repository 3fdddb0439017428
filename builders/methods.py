"""Methods of sampling by name.

A method is `(parts, **options) -> SampleFn`. Its options are its section of the config. `uses`
names what else of `sampling` the method reads: choices (`predictor`, `corrector`, `grid`) and
sections of other methods.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

import exact
import samplers
from builders.chains import denoising_mcmc
from builders.steps import Parts
from samplers.base import SampleFn, SampleResult
from samplers.schedules import schedule as schedules
from samplers.schedules.learned import schedule_file
from sde_lib.prediction import Cond, PredictFn, bound

BATCHING = ("example", "batch")


class Method(NamedTuple):
    """`make(parts, **options) -> SampleFn`, and the other keys of `sampling` that it reads."""

    make: Callable[..., SampleFn]
    uses: tuple[str, ...] = ()


def fixed_steps(
    parts: Parts,
    order: str = "paper",
    restarts: tuple = (),
    teleport_sigma: float = 0.0,
    teleport_rank: int = 0,
    lml: float = 0.0,
    lml_placement: str = "noise",
    lml_freeze: float = 0.0,
) -> SampleFn:
    """A predictor and a corrector down a grid.

    Args:
        order: "paper", predictor before corrector, or "original", corrector before predictor.
        restarts: rows (low, high, times, steps): from noise level low back to high, and down again.
        teleport_sigma: noise level c / a above which x follows the Gaussian model of the training
            data, in one jump and without the network; 0 switches the jump off.
        teleport_rank: rank of the covariance of that Gaussian; 0 takes the full covariance.
        lml: strength of Levenberg-Marquardt-Langevin around the predictor; 0 switches it off.
        lml_placement: the vector that is turned: "noise", "data", "direction" (of ddim) or
            "velocity".
        lml_freeze: share of the time, from t1, in which nothing is turned.
    """
    # `Parts.step` and `experiment.assemble` read these options from the config.
    del order, lml, lml_placement, lml_freeze, teleport_rank
    path, denoise, method, ts = parts.path, parts.section.denoise, parts.step(), parts.grid()
    rows = restart_rows(restarts)
    if rows:
        samplers.restart(path, method, ts, rows)  # raises the errors of these rows

    def down(key: Array, predict: PredictFn, x: Array, ts: Array, collect=None, frames=None):
        if rows:
            again = samplers.restart(path, method, ts, rows, denoise)
            return again(key, predict, x, collect=collect, frames=frames)
        return samplers.sample(key, predict, method, x, ts, collect, denoise, frames)

    def run(key: Array, predict: PredictFn, x: Array, cond: Cond = None, **kept) -> SampleResult:
        return down(key, bound(predict, cond), x, ts, **kept)

    if not teleport_sigma:
        return run
    flow = partial(exact.gaussian_flow, path, parts.known.moments())
    return samplers.teleport(flow, down, path, ts, teleport_sigma)


def restart_rows(restarts: tuple) -> list[samplers.Restarts]:
    """Return the `Restarts` of each row `(low, high, times, steps)`.

    Raises:
        ValueError: for a row of another form.
    """
    rows = []
    for row in restarts:
        if not isinstance(row, tuple) or len(row) != 4 or any(int(n) != n for n in row[2:]):
            raise ValueError(
                f"sampling.pc.restarts has the row {row!r}; a row is (low, high, times, steps), "
                "two noise levels and two whole numbers, and the rows stand in a tuple."
            )
        rows.append(samplers.Restarts(row[0], row[1], int(row[2]), int(row[3])))
    return rows


def ode(
    parts: Parts,
    solver: str = "tsit5",
    rtol: float = 1e-5,
    atol: float = 1e-5,
    max_steps: int = 10_000,
    variable: str = "t",
    sigma_data: float = 1.25,
    batching: str = "example",
) -> SampleFn:
    """The probability-flow ODE, solved to a tolerance.

    Args:
        solver: "tsit5", "dopri5", "dopri8", "bosh3", "heun" or "reversible_heun".
        variable: variable in which steps are chosen: "t", "lam" or "angle".
        sigma_data: about the largest size of the data, for the variables "lam" and "angle".
        batching: "example", a step size for each example, or "batch", one for all.
    """
    made = samplers.Solver(solver, rtol, atol, max_steps, variable, sigma_data)
    samplers.check_solver(made)
    return samplers.adaptive_ode(
        parts.path, parts.section.eps, made, per_example(batching), parts.section.denoise
    )


def sde(
    parts: Parts,
    rtol: float = 1e-2,
    atol: float = 1e-2,
    max_steps: int = 10_000,
    variable: str = "t",
    sigma_data: float = 1.25,
    eta: float = 1.0,
) -> SampleFn:
    """The reverse SDE, solved to a tolerance; steps shrink with the noise of each example.

    Args:
        variable: variable in which steps are chosen: "t", "lam" or "angle".
        sigma_data: about the largest size of the data, for the variables "lam" and "angle".
        eta: the strength of the noise; 1 is the reverse SDE.
    """
    made, section = (
        samplers.Solver("tsit5", rtol, atol, max_steps, variable, sigma_data),
        parts.section,
    )
    samplers.check_solver(made)
    return samplers.adaptive_sde(parts.path, section.eps, made, section.denoise, eta=eta)


def dpm_fast(parts: Parts, form: str = "data") -> SampleFn:
    """DPM-Solver's single steps of orders 3, 2 and 1, `sampling.steps` evaluations in all.

    Args:
        form: the prediction that is expanded, "data" or "noise".
    """
    section = parts.section
    return samplers.dpm_fast(
        parts.path, section.steps, parts.end(), form, section.grid, section.denoise
    )


def dpm_adaptive(
    parts: Parts, order: int = 2, form: str = "data", batching: str = "example"
) -> SampleFn:
    """DPM-Solver with adaptive steps.

    Args:
        order: 2 or 3.
        form: the prediction that is expanded, "data" or "noise".
        batching: "example", a step size for each example, or "batch", one for all.
    """
    return samplers.dpm_adaptive(
        parts.path,
        parts.section.eps,
        order,
        form,
        per_example=per_example(batching),
        denoise=parts.section.denoise,
    )


def unified(parts: Parts, schedule: str = "digits_10") -> SampleFn:
    """A schedule found by search, with its own nodes, steps and last denoising, to `sampling.eps`.

    Args:
        schedule: a name in configs/solvers/, or the path of a file.
    """
    if not schedule:
        raise ValueError(
            "sampling.unified.schedule is empty; name one of configs/solvers/, such as digits_10, "
            "or give the path of a file."
        )
    found = schedules.load(schedule_file(schedule))
    mean = jnp.asarray(parts.known.moments().mean) if found.analytic else 0.0
    return samplers.unified(parts.path, found, parts.section.eps, mean=mean)


def score_sde(parts: Parts) -> SampleFn:
    """The released code's loop, with all its conventions."""
    section = parts.section
    predictor = section.get(section.predictor, {})
    return samplers.score_sde(
        parts.path,
        section.predictor,
        section.corrector,
        num_scales=section.steps,
        eps=section.eps,
        denoise=section.denoise,
        probability_flow=predictor.get("probability_flow", False),
        continuous=parts.known.continuous,
        **section.get(section.corrector, {}),
    )


def per_example(batching: str) -> bool:
    if batching not in BATCHING:
        raise ValueError(f"batching is {batching!r}; it must be one of {', '.join(BATCHING)}.")
    return batching == "example"


def own(parts: Parts, starts: int = 64) -> SampleFn:
    """The solver of `sampling.steps` evaluations that is best on this network.

    `builders.own.fitted` measures it on trajectories of the trained network, or finds it in the
    workdir. What is built here stands in where nothing is measured, as in the pictures of a
    training run: DPM-Solver++ 2M on the grid of Karras et al.

    Args:
        starts: trajectories on which solvers are compared, at least 8.
    """
    if starts < 8:
        raise ValueError(f"starts is {starts}; solvers are compared on at least 8 trajectories.")
    path, section = parts.path, parts.section
    method = samplers.dpm_multistep(path, 2, "data")
    ts = samplers.make_grid("karras", path, section.steps, section.eps)

    def run(key: Array, predict: PredictFn, x: Array, cond: Cond = None, **kept) -> SampleResult:
        return samplers.sample(key, predict, method, x, ts, cond=cond, **kept)

    return run


METHODS = {
    "pc": Method(fixed_steps, ("predictor", "corrector", "grid")),
    "ode": Method(ode),
    "sde": Method(sde),
    "score_sde": Method(score_sde, ("predictor", "corrector")),
    "dpm_fast": Method(dpm_fast),
    "dpm_adaptive": Method(dpm_adaptive),
    "unified": Method(unified),
    "own": Method(own),
    "denoising_mcmc": Method(denoising_mcmc, ("pc", "predictor", "corrector")),
}
