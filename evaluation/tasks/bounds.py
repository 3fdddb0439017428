"""Bounds of the code length of levels, in bits per dimension: what `data_bits` averages.

    name             of                          by
    "flow"           dequantised data at eps     log p of the flow ODE
    "closed"         dequantised data            the same at eps, and the way from eps to the data
    "elbo"           dequantised data            the variational bound of the reverse SDE, no solve
    "closed_levels"  the levels themselves       as "closed", with a decoder of levels
    "elbo_levels"    the levels themselves       as "elbo", with that decoder

The first is the number of the literature. It takes dequantised data for a draw of the law at eps,
which the next two do not (`likelihood/decoder.py`, `likelihood/elbo.py`). The last two are meant
for a model that was trained on levels without noise, whose density at eps stands in peaks on them;
of a smooth density a decoder of levels makes little.
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

# What they are called in the report.
BOUNDS = {
    "flow": "uniform dequantisation",
    "closed": "gap at eps closed",
    "elbo": "ELBO",
    "closed_levels": "decoder of levels at eps",
    "elbo_levels": "ELBO of levels",
}
MORE_BOUNDS = tuple(name for name in BOUNDS if name != "flow")


class Draw(NamedTuple):
    """An estimate in nats, summed over dimensions, its standard error over probes or times,
    evaluations of the network, and failure, each `(B,)`."""

    logp: Array
    stderr: Array
    nfe: Array
    failed: Array


def bound_name(bound: str, k: int = 1) -> str:
    """What bounds the code length, for the report."""
    return BOUNDS[bound] if k == 1 else f"importance-weighted, k = {k}"


def noise_in_levels(experiment) -> float:
    """The standard deviation `c / a` of the law's noise at eps, in levels of the data."""
    lam = experiment.path.lam(jnp.asarray(experiment.config.likelihood.eps))
    return math.exp(-float(lam) - experiment.bits_scaler.log_volume())


def make_batch_bits(experiment, bound: str = "flow") -> Callable[..., tuple[Array, ...]]:
    """`(params, repeat, raw, indices) -> bits, stderr over probes, nfe, failed`, each `(B,)`."""
    config, dims = experiment.config, int(np.prod(experiment.shape))
    draw = flow(experiment) if bound == "flow" else further(experiment, bound)
    # A probability of levels has no volume.
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

    All k have the same probes. The errors of their traces are then nearly the same too and pass
    through the logarithm of the mean, which would otherwise pick out the luckiest of them.
    """
    k = experiment.config.eval.bpd_samples

    def draw(predict, raw, noise_keys, probe_keys) -> Draw:
        def one(keys):
            x = experiment.bits_scaler.to_model(keys, raw)
            result = experiment.log_likelihood(probe_keys, predict, x)
            return result.logp, result.stderr, result.nfe, result.failed

        several = jax.vmap(lambda j: fold_in(noise_keys, j))
        draws = several(jnp.arange(k)) if k > 1 else noise_keys[None]
        # One after the other: the memory is that of one.
        logps, errors, nfe, failed = jax.lax.map(one, draws)
        # Errors that the draws have in common add up; the weights are the terms' shares.
        stderr = jnp.sum(jax.nn.softmax(logps, axis=0) * errors, axis=0)
        logp = logsumexp(logps, axis=0) - jnp.log(k)
        return Draw(logp, stderr, jnp.sum(nfe, axis=0), jnp.any(failed, axis=0))

    return draw


def further(experiment, bound: str) -> Callable[..., Draw]:
    """One draw of another bound. A model of dequantised levels has them in the middle of a bin."""
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
