"""Checksums against the formula in Python's integers; every bit and random damage changes them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.damages import KINDS, missed
from training.checksum import checksum, plain_sum


def mixed(word):
    word = (word ^ (word >> 16)) * 0x7FEB352D % 2**32
    word = (word ^ (word >> 15)) * 0x846CA68B % 2**32
    return word ^ (word >> 16)


def by_hand(*leaves):
    """Return the checksum of leaves, given as arrays of unsigned integers."""
    total = 0
    for k, leaf in enumerate(leaves):
        for i, bits in enumerate(np.ravel(leaf)):
            total += mixed((int(bits) + 0x9E3779B9 * (i + 1) + 0x85EBCA77 * (k + 1)) % 2**32)
    return total % 2**32


def plain_by_hand(*leaves):
    total = 0
    for k, leaf in enumerate(leaves):
        total += (2 * k + 1) * sum((2 * i + 1) * int(b) for i, b in enumerate(np.ravel(leaf)))
    return total % 2**32


def test_the_formula():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((3, 5, 7)).astype(np.float32)
    n = rng.integers(-100, 100, 11).astype(np.int32)
    half = jnp.asarray(rng.standard_normal((4, 4)), jnp.bfloat16)
    key = jax.random.key(3)
    tree = [x, n, half, key, np.float32(2.5), np.array([True, False])]
    words = (
        x.view(np.uint32),
        n.view(np.uint32),
        np.asarray(half).view(np.uint16),
        np.asarray(jax.random.key_data(key)),
        np.float32(2.5).view(np.uint32),
        np.array([1, 0]),
    )
    assert int(checksum(tree)) == by_hand(*words) and checksum(tree).dtype == jnp.uint32
    assert int(plain_sum(tree)) == plain_by_hand(*words)


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


def test_an_array_negated_is_another():
    """A negated array has another checksum; in a plain sum its sign bits would cancel in pairs."""
    x = np.random.default_rng(3).standard_normal((8, 8)).astype(np.float32)
    assert int(plain_sum(x)) == int(plain_sum(-x))
    assert int(checksum(x)) != int(checksum(-x))


@pytest.mark.parametrize("kind", KINDS)
def test_random_damages_are_seen(kind):
    """The checksum misses none of 10,000 random damages.

    The plain sum of earlier versions misses even numbers of sign bits: 32 of the 63 numbers from 2
    to 64, and half of the lengths of a negated part.
    """
    found = missed(kind, 10_000)
    assert found["mixed"] == 0
    share = {"2 to 64 sign bits": 32 / 63, "the rest of the array negated": 0.5}.get(kind, 0.0)
    assert abs(found["plain"] / 10_000 - share) <= 4.0 * (share * (1.0 - share) / 10_000) ** 0.5
