"""Densities: exact log-likelihood by the probability-flow ODE, and bits per dimension."""

from likelihood.bits import bits_per_dim
from likelihood.divergence import DIVERGENCES
from likelihood.ode import LogLik, log_likelihood

__all__ = ["DIVERGENCES", "LogLik", "bits_per_dim", "log_likelihood"]
