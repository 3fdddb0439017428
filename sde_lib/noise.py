"""Random numbers that belong to an example, not to a batch.

Every argument `key` of this code base may be one key, or an array of keys with one entry per
example. With an array, example i draws from its own key alone, so sample 7 is the same alone, in a
batch of 64, or on another number of devices.

Each function that derives keys from keys is jitted, so outside of `jit` it compiles one program.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array


@partial(jax.jit, static_argnums=0)
def example_keys(seed: int, indices: Array) -> Array:
    """One key per example, `fold_in(key(seed), index)`. Shapes: `(B,)` integers to `(B,)` keys."""
    return jax.vmap(lambda i: jax.random.fold_in(jax.random.key(seed), i))(jnp.asarray(indices))


@jax.jit
def fold_in(key: Array, data: Array | int) -> Array:
    """`jax.random.fold_in` for one key or one key per example."""
    if key.ndim == 0:
        return jax.random.fold_in(key, data)
    return jax.vmap(lambda k: jax.random.fold_in(k, data))(key)


@partial(jax.jit, static_argnums=1)
def split(key: Array, num: int) -> tuple[Array, ...]:
    """`num` independent keys, each of the shape of `key`."""
    if key.ndim == 0:
        return tuple(jax.random.split(key, num))
    keys = jax.vmap(lambda k: jax.random.split(k, num))(key)
    return tuple(keys[:, i] for i in range(num))


@partial(jax.jit, static_argnums=1)
def several(keys: Array, times: int) -> Array:
    """`times` new keys from each of n keys, `(n times,)`; keys from one key are adjacent."""
    of_one = lambda key: jax.vmap(lambda j: jax.random.fold_in(key, j))(jnp.arange(times))
    return jax.vmap(of_one)(keys).reshape(-1)


def normal_like(key: Array, x: Array) -> Array:
    """Standard normal noise with the shape and dtype of `x`.

    Raises:
        ValueError: where the number of keys is not the batch size of `x`.
    """
    return draw_like(jax.random.normal, key, x)


def rademacher_like(key: Array, x: Array) -> Array:
    """Independent signs, +1 or -1, with the shape and dtype of `x`."""
    return draw_like(jax.random.rademacher, key, x)


def draw_like(draw, key: Array, x: Array) -> Array:
    if key.ndim == 0:
        return draw(key, x.shape, x.dtype)
    if key.shape[0] != x.shape[0]:
        raise ValueError(
            f"There are {key.shape[0]} keys for a batch of {x.shape[0]}; "
            "pass one key, or one key per example."
        )
    return jax.vmap(lambda k: draw(k, x.shape[1:], x.dtype))(key)
