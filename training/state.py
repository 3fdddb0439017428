"""All that a run must remember to go on exactly where it stopped."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax import Array


@struct.dataclass
class PlayerState:
    """What a network in training consists of: parameters, their average, the optimizer's memory."""

    params: Any
    ema_params: Any
    opt_state: optax.OptState


@struct.dataclass
class TrainState:
    """One pytree, saved and restored as a whole.

    `step` counts updates made, int32. `key` never changes: the randomness of step n is
    `fold_in(key, n)`, and the data of step n are a function of the seed and n, so neither needs a
    place of its own here.

    `params`, `ema_params` and `opt_state` are those of the network that is sampled from. `others`
    are the further networks that are trained beside it, by name; most runs have none.
    """

    step: Array
    params: Any
    ema_params: Any
    opt_state: optax.OptState
    key: Array
    others: dict[str, PlayerState] = struct.field(default_factory=dict)

    @property
    def main(self) -> PlayerState:
        """The network that is sampled from, in the shape that the others have."""
        return PlayerState(self.params, self.ema_params, self.opt_state)


def create_state(
    params: Any,
    tx: optax.GradientTransformation,
    seed: int,
    others: Mapping[str, tuple[Any, optax.GradientTransformation]] | None = None,
) -> TrainState:
    """The state before the first step; `others` are parameters and optimizer by name."""
    beside = {name: create_player(*each) for name, each in (others or {}).items()}
    main = create_player(params, tx)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=main.params,
        ema_params=main.ema_params,
        opt_state=main.opt_state,
        key=jax.random.key(seed),
        others=beside,
    )


def create_player(params: Any, tx: optax.GradientTransformation) -> PlayerState:
    # A copy: the step donates its argument, and a buffer cannot be donated twice.
    return PlayerState(params, jax.tree.map(jnp.copy, params), tx.init(params))


def parameter_count(params: Any) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(params))
