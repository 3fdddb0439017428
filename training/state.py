"""All that a run must remember to go on exactly where it stopped."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax import Array


@struct.dataclass
class TrainState:
    """One pytree, saved and restored as a whole.

    `step` counts updates made, int32. `key` never changes: the randomness of step n is
    `fold_in(key, n)`, and the data of step n are a function of the seed and n, so neither needs a
    place of its own here.
    """

    step: Array
    params: Any
    ema_params: Any
    opt_state: optax.OptState
    key: Array


def create_state(params: Any, tx: optax.GradientTransformation, seed: int) -> TrainState:
    """The state before the first step."""
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        # A copy: the step donates its argument, and a buffer cannot be donated twice.
        ema_params=jax.tree.map(jnp.copy, params),
        opt_state=tx.init(params),
        key=jax.random.key(seed),
    )


def parameter_count(params: Any) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(params))
