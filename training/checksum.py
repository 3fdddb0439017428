"""A number that changes with any bit of a state, to know a checkpoint that was altered on disk.

    sum_k (2 k + 1) sum_i (2 i + 1) bits(x_ki)    mod 2^32

over the elements i of the leaves k of a tree. It is computed on the devices in integers, so it is
exact and the same however the state is split; weights are odd, so every single bit that flips
changes it.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax


@jax.jit
def checksum(tree: Any) -> jax.Array:
    """uint32, of all leaves of the tree in their order."""
    sums = [leaf_sum(leaf) * jnp.uint32(2 * k + 1) for k, leaf in enumerate(jax.tree.leaves(tree))]
    return sum(sums, jnp.uint32(0))


def leaf_sum(leaf: jax.Array) -> jax.Array:
    bits = bits_of(leaf)
    index, stride = jnp.zeros(bits.shape, jnp.uint32), 1
    # By axis and not by a flat index, which a split array would have to be gathered for.
    for axis in reversed(range(bits.ndim)):
        index += lax.broadcasted_iota(jnp.uint32, bits.shape, axis) * jnp.uint32(stride % 2**32)
        stride *= bits.shape[axis]
    return jnp.sum(bits * (2 * index + 1), dtype=jnp.uint32)


def bits_of(leaf: jax.Array) -> jax.Array:
    """The bits of an array as uint32, one or two for each element."""
    leaf = jnp.asarray(leaf)
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    if leaf.dtype == bool:
        return leaf.astype(jnp.uint32)
    size = leaf.dtype.itemsize
    unsigned = {1: jnp.uint8, 2: jnp.uint16}.get(size, jnp.uint32)
    return lax.bitcast_convert_type(leaf, unsigned).astype(jnp.uint32)
