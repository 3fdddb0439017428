"""Dropout by halves of random words has the right distribution."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models.dropout import Dropout

SHAPE = (64, 16, 16, 7)  # with an odd number of channels, the last word serves one channel


@partial(jax.jit, static_argnums=0)
def drop(rate, x, key):
    return Dropout(rate).apply({}, x, False, rngs={"dropout": key})


def dropped(rate, x=None, seed=0):
    x = np.ones(SHAPE, np.float32) if x is None else x
    return np.asarray(drop(rate, x, jax.random.key(seed)))


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_each_entry_at_the_rate_and_by_itself(rate):
    """Each entry is dropped at the rate and independently: shares of channels and of pairs."""
    zero = (dropped(rate) == 0).reshape(-1, SHAPE[-1])
    n = len(zero)
    error = np.abs(zero.mean(0) - rate) / np.sqrt(rate * (1 - rate) / n)
    assert error.max() < 4.0
    both = np.mean(zero[:, :, None] & zero[:, None, :], axis=0)
    off = both[~np.eye(SHAPE[-1], dtype=bool)]
    assert np.max(np.abs(off - rate**2)) < 5 * np.sqrt(rate**2 * (1 - rate**2) / n)


def test_what_is_kept_is_scaled_so_that_the_mean_stays():
    x = np.random.default_rng(1).standard_normal(SHAPE).astype(np.float32) + np.float32(3.0)
    y = dropped(0.25, x)
    kept = y != 0
    np.testing.assert_allclose(y[kept], (x / 0.75)[kept], rtol=1e-6)
    assert dropped(0.25, x.astype(jnp.bfloat16)).dtype == jnp.bfloat16


def test_the_key_decides_and_the_ends_need_none():
    assert np.array_equal(dropped(0.5), dropped(0.5))
    assert not np.array_equal(dropped(0.5), dropped(0.5, seed=1))
    x = np.ones((2, 3), np.float32)
    np.testing.assert_array_equal(Dropout(0.0).apply({}, x, False), x)
    np.testing.assert_array_equal(Dropout(0.9).apply({}, x, True), x)
    np.testing.assert_array_equal(Dropout(1.0).apply({}, x, False), 0 * x)
