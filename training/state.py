"""The state of a training run, from which it resumes exactly where it stopped."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax import Array


@struct.dataclass
class PlayerState:
    """The state of one network in training: parameters, their average, the optimizer's state."""

    params: Any
    ema_params: Any
    opt_state: optax.OptState


@struct.dataclass
class TrainState:
    """The state of a run, one pytree, saved and restored as a whole.

    `step`, int32, is the number of updates so far. `key` never changes: the randomness of step n is
    `fold_in(key, n)`, and the data of step n are a function of the seed and n. Neither is therefore
    stored.

    `params`, `ema_params` and `opt_state` belong to the network that is sampled from. `others` are
    further networks that are trained with it, by name; most runs have none.
    """

    step: Array
    params: Any
    ema_params: Any
    opt_state: optax.OptState
    key: Array
    others: dict[str, PlayerState] = struct.field(default_factory=dict)

    @property
    def main(self) -> PlayerState:
        """The network that is sampled from, as a `PlayerState`."""
        return PlayerState(self.params, self.ema_params, self.opt_state)


def create_state(
    params: Any,
    tx: optax.GradientTransformation,
    seed: int,
    others: Mapping[str, tuple[Any, optax.GradientTransformation]] | None = None,
) -> TrainState:
    """The state before the first step; `others` maps names to (parameters, optimizer)."""
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
    # The average is a copy: the step donates the state, and a buffer cannot be donated twice.
    return PlayerState(params, jax.tree.map(jnp.copy, params), tx.init(params))


def parameter_count(params: Any) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(params))
