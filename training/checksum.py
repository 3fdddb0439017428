"""A checksum of a state, which detects a checkpoint that was altered on disk.

    sum_k sum_i mix( bits(x_ki) + golden (i + 1) + salt (k + 1) )    mod 2^32

over the words i of the leaves k of a tree. `mix` is a bijection of 32-bit words in which every bit
of the result depends on every bit of the argument. Changes of several words therefore cancel only
by chance, with probability 2^-32; a word that moves to another place changes the sum too. The sum
is computed on the devices in integers, so it is exact and does not depend on the sharding.

`plain_sum` is the checksum of checkpoints of earlier versions. It does not detect an even number of
flipped sign bits.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

GOLDEN, SALT = 0x9E3779B9, 0x85EBCA77  # odd, so that their multiples run through all words


@jax.jit
def checksum(tree: Any) -> jax.Array:
    """The checksum of all leaves of a tree in their order, uint32 ()."""
    sums = [leaf_sum(leaf, k) for k, leaf in enumerate(jax.tree.leaves(tree))]
    return sum(sums, jnp.uint32(0))


def leaf_sum(leaf: jax.Array, k: int) -> jax.Array:
    bits = bits_of(leaf)
    place = (index_of(bits.shape) + 1) * jnp.uint32(GOLDEN) + jnp.uint32(SALT * (k + 1) % 2**32)
    return jnp.sum(mix(bits + place), dtype=jnp.uint32)


def mix(word: jax.Array) -> jax.Array:
    """A bijection of uint32: xor with its own shifts, and products with odd numbers.

    The multipliers are those of Wellons 2018, "lowbias32", found by a search for the least bias.
    """
    word = (word ^ (word >> 16)) * jnp.uint32(0x7FEB352D)
    word = (word ^ (word >> 15)) * jnp.uint32(0x846CA68B)
    return word ^ (word >> 16)


@jax.jit
def plain_sum(tree: Any) -> jax.Array:
    """`sum_k (2 k + 1) sum_i (2 i + 1) bits(x_ki)`, uint32."""
    total = jnp.uint32(0)
    for k, leaf in enumerate(jax.tree.leaves(tree)):
        bits = bits_of(leaf)
        part = jnp.sum(bits * (2 * index_of(bits.shape) + 1), dtype=jnp.uint32)
        total += part * jnp.uint32(2 * k + 1)
    return total


def index_of(shape: tuple[int, ...]) -> jax.Array:
    """The flat index of each element, uint32.

    The index is built axis by axis. A reshaped flat range would have to gather a sharded array.
    """
    index, stride = jnp.zeros(shape, jnp.uint32), 1
    for axis in reversed(range(len(shape))):
        index += lax.broadcasted_iota(jnp.uint32, shape, axis) * jnp.uint32(stride % 2**32)
        stride *= shape[axis]
    return index


def bits_of(leaf: jax.Array) -> jax.Array:
    """The bits of an array as uint32, one or two words for each element."""
    leaf = jnp.asarray(leaf)
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    if leaf.dtype == bool:
        return leaf.astype(jnp.uint32)
    size = leaf.dtype.itemsize
    unsigned = {1: jnp.uint8, 2: jnp.uint16}.get(size, jnp.uint32)
    return lax.bitcast_convert_type(leaf, unsigned).astype(jnp.uint32)
