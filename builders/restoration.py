"""The section `guidance` of a config where samples are to agree with `y = A x0 + noise`:
the method as one function `(keys, predict, x, y) -> SampleResult`."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jax import Array
from ml_collections import ConfigDict

import guidance
import restoration
import samplers
from builders.checks import RESTORATION
from builders.experiment import Experiment
from builders.operators import build_operator
from builders.steps import build_grid, build_parts, construct
from evaluation.tasks.given import given_source
from operators import LinearOperator
from samplers.base import SampleResult, finished
from sde_lib import split
from sde_lib.ranges import positive

# Those that take steps of their own down a grid, and no adaptive solver.
STEPPING = tuple(restoration.RESTORERS)


class Restoration(NamedTuple):
    """`run(keys, predict, x, y) -> SampleResult`, x a draw of the prior, y `(B, *shape_out)`; or,
    where all restorations of a measurement come from one run, `together(key, predict, y)`, whose
    samples are `(guidance.samples, ...)`. The other one is None."""

    operator: LinearOperator
    run: Callable[..., SampleResult] | None = None
    together: Callable[..., SampleResult] | None = None


def build_restoration(
    experiment: Experiment, operator: LinearOperator | None = None
) -> Restoration | None:
    """The restoration that a config asks for; None where it asks for none.

    Args:
        operator: what measured, in place of `guidance.operator`; the measurements are then given
            with it.

    Raises:
        ValueError: for an operator that does not fit the data, pictures that are not there, or a
            method that does not fit the operator or the sampler.
    """
    config, path = experiment.config, experiment.path
    section = config.guidance
    if section.method not in RESTORATION:
        return None
    if operator is None:
        operator = build_operator(section, experiment.shape)
        if not section.measurement:
            given_source(experiment, section.dataset)  # refused here, if at all
    if section.method == "ensemble":
        return Restoration(operator, together=build_ensemble(config, path, operator))
    if section.method in STEPPING:
        return Restoration(operator, build_stepping(config, path, operator))
    guide = build_guide(section, path, operator)
    # What does not fit is refused here, before anything is compiled.
    guide(np.zeros(operator.shape_out))

    def run(keys: Array, predict, x: Array, y: Array) -> SampleResult:
        return experiment.sample(keys, guidance.by_cond(guide, predict), x, y)

    return Restoration(operator, run)


def build_guide(section: ConfigDict, path, operator: LinearOperator):
    """`y -> GuideFn`."""
    name = section.method
    given = {"path": path, "operator": operator, "noise_std": section.noise_std}
    own, make = section.get(name, {}), guidance.GUIDES[name]
    return lambda y: construct(f"guidance.{name}", make, own, y=y, **given)


def build_stepping(config: ConfigDict, path, operator: LinearOperator):
    """`(keys, predict, x, y) -> SampleResult` by a method that steps down the configured grid."""
    section, sampling = config.guidance, config.sampling
    check_stepping(config)
    if section.method != "ddrm" and section.noise_std:
        raise ValueError(
            f"guidance.noise_std is {section.noise_std}, and {section.method!r} takes what is "
            "measured as exact; set it to 0, or take 'pigdm' or 'mmps'."
        )
    ts, parts = build_grid(sampling, path), build_parts(sampling, path)

    def method(y) -> samplers.Sampler:
        if section.method == "ddrm":
            return restoration.ddrm(path, operator, y, section.noise_std, **section.ddrm)
        return restoration.impute(path, operator, y, *parts)

    method(np.zeros(operator.shape_out))
    positive(**section.repaint)
    if section.method == "repaint" and (len(ts) - 1) % section.repaint.jump:
        raise ValueError(
            f"guidance.repaint.jump is {section.repaint.jump}; it must divide sampling.steps = "
            f"{len(ts) - 1}."
        )

    def run(keys: Array, predict, x: Array, y: Array) -> SampleResult:
        given = (keys, path, predict, method(y), x, ts)
        denoise = sampling.denoise
        if section.method == "repaint":
            result = restoration.repaint(*given, **section.repaint, denoise=denoise)
        else:
            result = samplers.sample(keys, predict, method(y), x, ts, denoise=denoise)
        if section.method == "ddrm":
            return result
        return result._replace(x=restoration.fill(operator, y, result.x))

    return run


def build_ensemble(config: ConfigDict, path, operator: LinearOperator):
    """`(key, predict, y) -> SampleResult`: draws of an ensemble for one measurement."""
    section, denoise = config.guidance, config.sampling.denoise
    check_stepping(config)
    ts, count = build_grid(config.sampling, path), section.ensemble.particles

    def start(y):
        misfit = restoration.gaussian_misfit(operator, y, section.noise_std)
        return restoration.ensemble(path, misfit, ts, **section.ensemble)

    start(np.zeros(operator.shape_out))
    if section.samples > count:
        raise ValueError(
            f"guidance.samples is {section.samples} and guidance.ensemble.particles {count}; draws "
            "of an ensemble repeat each other then: take more particles."
        )

    def run(key: Array, predict, y: Array) -> SampleResult:
        moving, drawing = split(key, 2)
        found = start(y)(moving, predict)
        x = restoration.draws(drawing, found, section.samples)
        if denoise:
            x = predict(x, ts[-1]).x0
        return finished(x, None, found.nfe + denoise)

    return run


def check_stepping(config: ConfigDict) -> None:
    if config.sampling.method != "pc":
        raise ValueError(
            f"guidance.method is {config.guidance.method!r}, which takes steps down a grid, and "
            f"sampling.method is {config.sampling.method!r}; take 'pc', or a guide such as 'mmps'."
        )
