"""Densities: exact log-likelihood by the probability-flow ODE, bounds, and bits per dimension."""

from collections.abc import Callable
from functools import partial, wraps

from likelihood.adams import Adams, check_adams
from likelihood.bits import Weighted, bits_per_dim, importance_weighted
from likelihood.decoder import (
    closed_log_likelihood,
    expected_log_decoder,
    log_decoder,
    noised_log_density,
)
from likelihood.divergence import DIVERGENCES
from likelihood.elbo import Elbo, diffusion_loss, elbo_continuous, elbo_discrete, prior_kl
from likelihood.ode import LogLik, log_likelihood
from samplers.adaptive.solver import SOLVERS, Solver, check_solver


def checked(make: Callable, check: Callable) -> Callable:
    """`make` with its signature; values that `check` refuses are refused."""

    @wraps(make)
    def construct(**options):
        solver = make(**options)
        check(solver)
        return solver

    return construct


# Solvers of the flow between data and noise: in fixed steps, or to a tolerance.
FLOW_SOLVERS = {
    "adams": checked(Adams, check_adams),
    **{name: checked(partial(Solver, name), check_solver) for name in SOLVERS},
}

__all__ = [
    "DIVERGENCES",
    "FLOW_SOLVERS",
    "Adams",
    "Elbo",
    "LogLik",
    "Weighted",
    "bits_per_dim",
    "check_adams",
    "closed_log_likelihood",
    "diffusion_loss",
    "elbo_continuous",
    "elbo_discrete",
    "expected_log_decoder",
    "importance_weighted",
    "log_decoder",
    "log_likelihood",
    "noised_log_density",
    "prior_kl",
]
