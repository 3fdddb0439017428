"""Bounds on the code length of levels, in bits per dimension, which `data_bits` averages.

    name             of                          by
    "flow"           dequantised data at eps     log p of the flow ODE
    "closed"         dequantised data            the same at eps, and the step from eps to the data
    "elbo"           dequantised data            the variational bound of the reverse SDE, no solve
    "closed_levels"  the levels themselves       as "closed", with a decoder of levels
    "elbo_levels"    the levels themselves       as "elbo", with that decoder

The literature reports "flow". It treats dequantised data as a draw of the law at eps; "closed" and
"elbo" do not (`likelihood/decoder.py`, `likelihood/elbo.py`). The last two are meant for a model
that was trained on levels without dequantisation noise, whose density at eps has peaks at the
levels. For a smooth density they are loose.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.scipy.special import logsumexp

from likelihood import (
    bits_per_dim,
    closed_log_likelihood,
    elbo_continuous,
    elbo_discrete,
    noised_log_density,
)
from parallel.mesh import by_device
from sde_lib import example_keys, fold_in, split

# Name of a bound to its label in the report.
BOUNDS = {
    "flow": "uniform dequantisation",
    "closed": "gap at eps closed",
    "elbo": "ELBO",
    "closed_levels": "decoder of levels at eps",
    "elbo_levels": "ELBO of levels",
}
MORE_BOUNDS = tuple(name for name in BOUNDS if name != "flow")


class Draw(NamedTuple):
    """An estimate of log p in nats, summed over dimensions, with its standard error over probes or
    times, the evaluations of the network, and whether it failed; each `(B,)`."""

    logp: Array
    stderr: Array
    nfe: Array
    failed: Array


def bound_name(bound: str, k: int = 1) -> str:
    """The label of a bound in the report; `k` is `eval.bpd_samples`."""
    return BOUNDS[bound] if k == 1 else f"importance-weighted, k = {k}"


def noise_in_levels(experiment) -> float:
    """The standard deviation `c / a` of the law's noise at eps, in levels of the data."""
    lam = experiment.path.lam(jnp.asarray(experiment.config.likelihood.eps))
    return math.exp(-float(lam) - experiment.bits_scaler.log_volume())


def make_batch_bits(experiment, bound: str = "flow") -> Callable[..., tuple[Array, ...]]:
    """`(params, repeat, raw, indices) -> bits, stderr over probes, nfe, failed`, each `(B,)`.

    `bits` and `stderr` are in bits per dimension; a failed example has `bits` nan.
    """
    config, dims = experiment.config, int(np.prod(experiment.shape))
    draw = flow(experiment) if bound == "flow" else further(experiment, bound)
    # A probability of levels is no density, so the scaler's volume does not enter.
    log_volume = 0.0 if bound.endswith("levels") else experiment.bits_scaler.log_volume()

    def batch_bits(params, repeat, raw, indices):
        keys = split(fold_in(example_keys(config.eval.seed, indices), repeat), 2)
        found = draw(experiment.predict(params), raw, *keys)
        bits = bits_per_dim(found.logp, dims, log_volume)
        missing = found.failed | ~jnp.isfinite(bits)
        bits = jnp.where(missing, jnp.nan, bits)
        return bits, found.stderr / (dims * jnp.log(2.0)), found.nfe, missing

    return by_device(batch_bits, shared=2)


def flow(experiment) -> Callable[..., Draw]:
    """The bound of `eval.bpd_samples` = k dequantisations u + U_1, ..., u + U_k of an example
    (Burda et al. 2016; k = 1 is the bound of Theis et al. 2016)

        log P(u) >= E log (1/k) sum_j q(u + U_j).

    All k share the same probes, so that the errors of their divergences are nearly equal and only
    shift the logarithm of the mean. With independent probes the mean would favour the draw whose
    error happens to be largest.
    """
    k = experiment.config.eval.bpd_samples

    def draw(predict, raw, noise_keys, probe_keys) -> Draw:
        def one(keys):
            x = experiment.bits_scaler.to_model(keys, raw)
            result = experiment.log_likelihood(probe_keys, predict, x)
            return result.logp, result.stderr, result.nfe, result.failed

        several = jax.vmap(lambda j: fold_in(noise_keys, j))
        draws = several(jnp.arange(k)) if k > 1 else noise_keys[None]
        # Draws are computed one after another, in the memory of one.
        logps, errors, nfe, failed = jax.lax.map(one, draws)
        # The errors of the draws are correlated, so they add linearly, weighted by the terms of the
        # mean.
        stderr = jnp.sum(jax.nn.softmax(logps, axis=0) * errors, axis=0)
        logp = logsumexp(logps, axis=0) - jnp.log(k)
        return Draw(logp, stderr, jnp.sum(nfe, axis=0), jnp.any(failed, axis=0))

    return draw


def further(experiment, bound: str) -> Callable[..., Draw]:
    """The draw of a bound other than "flow".

    For a model of dequantised data the value of a level is the middle of its bin.
    """
    config, path, scaler = experiment.config, experiment.path, experiment.scaler
    eps, levels = config.likelihood.eps, bound.endswith("levels")
    values = scaler.affine(jnp.arange(scaler.levels) + (0.5 if scaler.dequantize else 0.0))

    def draw(predict, raw, noise_keys, keys) -> Draw:
        dequantised = experiment.bits_scaler.to_model(noise_keys, raw)
        data = (values, raw.astype(jnp.int32)) if levels else (dequantised,)
        if bound.startswith("elbo"):
            make = elbo_discrete if levels else elbo_continuous
            found = make(keys, path, predict, *data, num_times=config.eval.elbo_times, eps=eps)
            return Draw(found.logp, found.stderr, found.nfe, ~jnp.isfinite(found.logp))
        at_eps = lambda keys, x: experiment.log_likelihood(keys, predict, x)
        make = closed_log_likelihood if levels else noised_log_density
        found = jax.tree.map(lambda v: v[0], make(keys, path, at_eps, *data, eps=eps))
        return Draw(found.logp, found.stderr, found.nfe, found.failed)

    return draw
