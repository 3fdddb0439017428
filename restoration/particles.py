"""Weighted particles: effective sample size, resampling, moments, and draws of equal weight."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.scipy.special import logsumexp

from sde_lib import split


class Ensemble(NamedTuple):
    """The result of an ensemble run.

    `x` `(N, ...)` are the particles and `log_weights` `(N,)` the logs of their weights, which sum
    to one; `ess` `(steps,)` is the effective sample size `1 / sum w^2` in each step before
    resampling; `log_evidence` estimates the log of the integral of Q at the end, for
    `gaussian_misfit` that of `p(y)`; `resamplings` is their number; `nfe` counts the evaluations of
    the network for one particle.
    """

    x: Array
    log_weights: Array
    ess: Array
    log_evidence: Array
    resamplings: Array
    nfe: Array


def effective(logs: Array) -> Array:
    """The effective sample size `(sum w)^2 / sum w^2`."""
    return jnp.exp(2.0 * logsumexp(logs) - logsumexp(2.0 * logs))


def systematic(key: Array, logs: Array, n: int) -> Array:
    """n rising indices by systematic resampling, each i `n w_i` times, give or take one.

    Kitagawa 1996. `logs` `(N,)` are log weights, not necessarily normalised.
    """
    ends = jnp.cumsum(jax.nn.softmax(logs))
    points = (jax.random.uniform(key) + jnp.arange(n)) / n
    return jnp.minimum(jnp.searchsorted(ends, points * ends[-1], side="right"), len(logs) - 1)


def draws(key: Array, result: Ensemble, n: int) -> Array:
    """n states `(n, ...)` of equal weight in random order; for n above the ESS some repeat."""
    choosing, mixing = split(key, 2)
    kept = systematic(choosing, result.log_weights, n)
    return result.x[jax.random.permutation(mixing, kept)]


def weighted_moments(result: Ensemble) -> tuple[Array, Array]:
    """Mean `(D,)` and covariance `(D, D)` of the weighted particles, flattened."""
    x, w = result.x.reshape(result.x.shape[0], -1), jnp.exp(result.log_weights)
    mean = w @ x
    return mean, (x - mean).T @ (w[:, None] * (x - mean))
