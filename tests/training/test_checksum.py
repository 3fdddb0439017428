"""Checksums against the formula in Python's integers, and for every bit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from training.checksum import checksum


def by_hand(*leaves):
    """Leaves as arrays of unsigned integers."""
    total = 0
    for k, leaf in enumerate(leaves):
        part = sum((2 * i + 1) * int(bits) for i, bits in enumerate(np.ravel(leaf)))
        total += (2 * k + 1) * part
    return total % 2**32


def test_the_formula():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((3, 5, 7)).astype(np.float32)
    n = rng.integers(-100, 100, 11).astype(np.int32)
    half = jnp.asarray(rng.standard_normal((4, 4)), jnp.bfloat16)
    key = jax.random.key(3)
    found = checksum([x, n, half, key, np.float32(2.5), np.array([True, False])])
    expected = by_hand(
        x.view(np.uint32),
        n.view(np.uint32),
        np.asarray(half).view(np.uint16),
        np.asarray(jax.random.key_data(key)),
        np.float32(2.5).view(np.uint32),
        np.array([1, 0]),
    )
    assert int(found) == expected and found.dtype == jnp.uint32


@pytest.mark.parametrize("dtype", [np.float32, np.int32, np.uint8])
def test_every_bit_counts(dtype):
    x = np.random.default_rng(1).integers(0, 100, (4, 6)).astype(dtype)
    before = int(checksum({"x": x}))
    for place in range(x.nbytes):
        for bit in range(8):
            y = x.copy()
            y.reshape(-1).view(np.uint8)[place] ^= 1 << bit
            assert int(checksum({"x": y})) != before
    assert int(checksum({"x": x.T})) != before


def test_doubles(x64):
    x = np.random.default_rng(2).standard_normal(5)
    assert int(checksum(x)) == by_hand(x.view(np.uint32))
