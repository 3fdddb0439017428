"""Experiments whose likelihood is a closed form, so that an evaluation of bits/dim needs no solve.

Pixels are narrow Gaussians, rounded down, so that the bound from one dequantisation is visibly
worse than that from many. The density is exact; its estimate has an error drawn from the probes'
keys.
"""

import dataclasses
import functools
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.stats import norm as jax_norm
from known_data import LEVELS, PARAMS, SHAPE, exact
from scipy.stats import norm

from data import from_array
from evaluation.tasks.bits import data_bits
from likelihood import LogLik

MEAN, STD, N, DIMS = 30.3, 0.8, 50, 6
PROBE = 0.5  # nats, the standard deviation of an estimate's error


def labelled(n=N, seed=1):
    rng = np.random.default_rng(seed)
    raw = np.floor(rng.normal(MEAN, STD, (n, *SHAPE))).astype(np.uint8)
    return from_array("narrow", "test", raw, rng.integers(0, 10, n), LEVELS)


@functools.cache
def closed_form(file, *, probe=PROBE, fails=lambda x: jnp.zeros(len(x), bool), **changes):
    """Return an experiment whose log p is exact except for a random error of `probe` nats.

    The result is cached: equal arguments give the same experiment.

    Args:
        file: data file of `known_data`, for `build`.
        fails: `x (B, ...) -> (B,)`, True for examples whose solve fails.
    """
    scale = 2.0 / LEVELS

    def log_likelihood(key, predict, x):
        logp = jax_norm.logpdf(x, MEAN * scale - 1.0, STD * scale).sum(axis=(1, 2, 3))
        logp += probe * jax.vmap(jax.random.normal)(key)
        nfe = 20 + jnp.argmax(x.reshape(len(x), -1), axis=1)
        failed = fails(x)
        logp = jnp.where(failed, jnp.nan, logp)
        return LogLik(logp, jnp.full(len(x), probe), x, nfe, failed)

    experiment = exact(file, **changes)
    return dataclasses.replace(experiment, log_likelihood=log_likelihood, test=labelled())


def watched(source, before):
    """Return the source with `before(indices)` called when a batch is read."""

    def fetch(indices):
        # A read of two examples is that of the fingerprint, not of a batch.
        if len(indices) != 2:
            before(indices)
        return source.fetch(indices)

    return dataclasses.replace(source, fetch=fetch)


def evaluate_slowly(file, folder, seconds, **changes):
    """Evaluate bits/dim with a pause of `seconds` before each batch, for a process to be killed."""
    experiment = closed_form(file, **changes)
    source = watched(experiment.test, lambda indices: time.sleep(seconds))
    data_bits(experiment, PARAMS, source, Path(folder), 8)


def code_lengths(source):
    """Return -log2 P(u) of each example, in bits per dimension."""
    u = source.fetch(np.arange(source.size)).reshape(source.size, -1).astype(float)
    p = norm.cdf(u + 1, MEAN, STD) - norm.cdf(u, MEAN, STD)
    return -np.log2(p).mean(axis=1)


def expected_bound(source):
    """Return `-E log2 q(u + U)` of each example in closed form, in bits per dimension."""
    u = source.fetch(np.arange(source.size)).reshape(source.size, -1)
    squares = (u + 0.5 - MEAN) ** 2 + 1 / 12
    nats = squares / (2 * STD**2) + np.log(STD * np.sqrt(2 * np.pi))
    return nats.mean(axis=1) / np.log(2)
