"""Guidance to measurements `y = A x0 + noise`, from the section `guidance` of a config.

The method becomes one function `(keys, predict, x, y) -> SampleResult`.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jax import Array

import guidance
import restoration
from builders.experiment import Experiment
from builders.operators import build_operator
from builders.steps import build_grid, build_parts, construct
from evaluation.tasks.given import given_source
from operators import LinearOperator
from samplers.base import SampleResult
from sde_lib.prediction import PredictFn


class Restoration(NamedTuple):
    """The operator, and the functions of a `restoration.Restorer`."""

    operator: LinearOperator
    run: Callable[..., SampleResult] | None = None
    together: Callable[..., SampleResult] | None = None


def build_restoration(
    experiment: Experiment, operator: LinearOperator | None = None
) -> Restoration | None:
    """Build the restoration of a config; None if `guidance.method` restores nothing.

    Args:
        operator: the measurement operator, in place of `guidance.operator`; the caller then has the
            measurements too.

    Raises:
        ValueError: for an operator that does not fit the data, pictures that do not exist, or a
            method that does not fit the operator or the sampler.
    """
    section = experiment.config.guidance
    if section.method not in restoration.METHODS:
        return None
    if operator is None:
        operator = build_operator(section, experiment.shape)
        if not section.measurement:
            given_source(experiment, section.dataset)  # raises the errors of missing pictures
    build_one = by_steps if section.method in restoration.RESTORERS else by_guide
    return Restoration(operator, *build_one(experiment, operator))


def by_guide(experiment: Experiment, operator: LinearOperator) -> restoration.Restorer:
    """The configured sampler, of any method, with a guide."""
    section = experiment.config.guidance
    name, path = section.method, experiment.path
    given = {"path": path, "operator": operator, "noise_std": section.noise_std}
    own, make = section.get(name, {}), guidance.GUIDES[name]
    guide = lambda y: construct(f"guidance.{name}", make, own, y=y, **given)
    # Raises the errors of the guide before anything is compiled.
    guide(np.zeros(operator.shape_out))

    def run(keys: Array, predict: PredictFn, x: Array, y: Array) -> SampleResult:
        return experiment.sample(keys, guidance.by_cond(guide, predict), x, y)

    return restoration.Restorer(run)


def by_steps(experiment: Experiment, operator: LinearOperator) -> restoration.Restorer:
    """A method with its own steps down the configured grid."""
    config, path = experiment.config, experiment.path
    section, sampling, name = config.guidance, config.sampling, config.guidance.method
    if sampling.method != "pc":
        raise ValueError(
            f"guidance.method is {name!r}, which takes steps down a grid, and sampling.method is "
            f"{sampling.method!r}; take 'pc', or a guide such as 'mmps'."
        )
    ts, parts = build_grid(sampling, path), build_parts(sampling, path)
    problem = restoration.Problem(
        path, operator, section.noise_std, ts, parts, sampling.denoise, section.samples
    )
    make, own = restoration.RESTORERS[name], section.get(name, {})
    return construct(f"guidance.{name}", make, own, problem=problem)
