"""The section `likelihood` of a config as a function for log p, and as the solver of its flow."""

from collections.abc import Callable

from jax import Array
from ml_collections import ConfigDict

import likelihood
import samplers
import sde_lib
from builders.aliases import modern
from builders.checks import choose
from builders.steps import construct
from sde_lib.prediction import Cond, PredictFn


def build_likelihood(
    section: ConfigDict, path: sde_lib.AffinePath
) -> Callable[..., likelihood.LogLik]:
    """`(key, predict, x, cond=None) -> LogLik`."""
    solver, section = build_flow_solver(section), modern("likelihood", section)
    name = section.divergence
    make = choose("likelihood.divergence", name, likelihood.DIVERGENCES)
    divergence = construct(f"likelihood.{name}", make, section[name])

    given = {"divergence": divergence, "solver": solver, "eps": section.eps}

    def run(key: Array, predict: PredictFn, x: Array, cond: Cond = None) -> likelihood.LogLik:
        return likelihood.log_likelihood(key, path, predict, x, cond=cond, **given)

    return run


def build_flow_solver(section: ConfigDict) -> samplers.Solver | likelihood.Adams:
    """The solver of the flow between data and noise, with a tolerance or with fixed steps."""
    name = section.solver
    make = choose("likelihood.solver", name, likelihood.FLOW_SOLVERS)
    choose("likelihood.divergence", section.divergence, likelihood.DIVERGENCES)
    return construct(f"likelihood.{name}", make, modern("likelihood", section)[name])
