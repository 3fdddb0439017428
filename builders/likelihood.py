"""The section `likelihood` of a config as log p, and as the flow between data and noise."""

from collections.abc import Callable

from jax import Array
from ml_collections import ConfigDict

import likelihood
import samplers
import sde_lib
from builders.checks import choose
from builders.steps import build_solver
from sde_lib.prediction import PredictFn


def build_likelihood(
    section: ConfigDict, path: sde_lib.AffinePath
) -> Callable[..., likelihood.LogLik]:
    """`(key, predict, x) -> LogLik`."""
    make = choose("likelihood.divergence", section.divergence, likelihood.DIVERGENCES)
    divergence, solver = make(section.num_probes), build_flow_solver(section)

    def run(key: Array, predict: PredictFn, x: Array) -> likelihood.LogLik:
        return likelihood.log_likelihood(
            key, path, predict, x, divergence=divergence, solver=solver, eps=section.eps
        )

    return run


def build_flow_solver(section: ConfigDict) -> samplers.Solver | likelihood.Adams:
    """Of the flow between data and noise: to a tolerance, or in fixed steps."""
    if section.solver != "adams":
        return build_solver("likelihood", section)
    choose("likelihood.variable", section.variable, samplers.VARIABLES)
    solver = likelihood.Adams(section.steps, section.order, section.variable, section.sigma_data)
    likelihood.check_adams(solver)
    return solver
