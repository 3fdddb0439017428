"""Bits/dim of a likelihood in closed form, so that a whole evaluation takes no solve.

Pixels are narrow Gaussians, rounded down, so that one dequantisation loses something that many
regain. The density is the exact one; its estimate has an error from the keys of the probes.
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
PROBE = 0.5  # nats, the error of an estimate


def labelled(n=N, seed=1):
    rng = np.random.default_rng(seed)
    raw = np.floor(rng.normal(MEAN, STD, (n, *SHAPE))).astype(np.uint8)
    return from_array("narrow", "test", raw, rng.integers(0, 10, n), LEVELS)


@functools.cache
def closed_form(file, *, probe=PROBE, fails=lambda x: jnp.zeros(len(x), bool), **changes):
    """An experiment whose likelihood is exact but for an error of `probe` nats; the same one where
    the same is asked for.

    Args:
        file: of known data, for `build`.
        fails: `x (B, ...) -> (B,)`, whose solves fail.
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
    """The same, with `before(indices)` called when a batch is read."""

    def fetch(indices):
        # The fingerprint, which is none of a batch's business, reads two examples.
        if len(indices) != 2:
            before(indices)
        return source.fetch(indices)

    return dataclasses.replace(source, fetch=fetch)


def evaluate_slowly(file, folder, seconds, **changes):
    """What a process does that is to be killed: `seconds` a batch."""
    experiment = closed_form(file, **changes)
    source = watched(experiment.test, lambda indices: time.sleep(seconds))
    data_bits(experiment, PARAMS, source, Path(folder), 8)


def code_lengths(source):
    """-log2 P(u) of each example in bits a dimension."""
    u = source.fetch(np.arange(source.size)).reshape(source.size, -1).astype(float)
    p = norm.cdf(u + 1, MEAN, STD) - norm.cdf(u, MEAN, STD)
    return -np.log2(p).mean(axis=1)


def expected_bound(source):
    """`-E log2 q(u + U)` of each example in bits a dimension, in closed form."""
    u = source.fetch(np.arange(source.size)).reshape(source.size, -1)
    squares = (u + 0.5 - MEAN) ** 2 + 1 / 12
    nats = squares / (2 * STD**2) + np.log(STD * np.sqrt(2 * np.pi))
    return nats.mean(axis=1) / np.log(2)
