"""Checksums against the formula in Python's integers; every bit and random damage changes them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from training.checksum import bits_of, checksum, plain_sum


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


def test_random_damages_are_seen():
    """All of 10,000 random damages of 2 to 64 flipped bits change the checksum.

    Half of them flip only sign bits; a plain sum would miss every even number of these.
    """
    rng = np.random.default_rng(4)
    x = rng.standard_normal(256).astype(np.float32)
    words, damages = np.asarray(bits_of(x)), np.zeros((10_000, 256), np.uint32)
    for i, damage in enumerate(damages):
        count = rng.integers(2, 65)
        if i % 2:
            damage[rng.choice(256, count, replace=False)] = 2**31
        else:
            for place in rng.choice(256 * 32, count, replace=False):
                damage[place // 32] ^= np.uint32(1 << (place % 32))
    for total, least, most in ((checksum, 0, 0), (plain_sum, 2000, 3000)):
        found = jax.jit(jax.vmap(lambda bits, total=total: total(bits)))(words ^ damages)
        missed = int(np.sum(np.asarray(found) == int(total(words))))
        assert least <= missed <= most
