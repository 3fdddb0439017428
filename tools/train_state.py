"""Convert a training state of score_sde, and refuse it if any leaf does not fit."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.traverse_util import flatten_dict

from tools.original import fit
from tools.original_state import OriginalState
from training.state import TrainState


class Misfit(ValueError):
    """Raised for parameters that do not fit the network. `lines` has one line for each of them."""

    def __init__(self, sentence: str, lines: tuple[str, ...]):
        super().__init__(sentence)
        self.lines = lines


class Target(NamedTuple):
    """What the config builds: the shapes of a training state, and the layers in calling order."""

    state: TrainState
    layers: tuple[str, ...]


def train_state(original: OriginalState, target: Target, seed: int) -> TrainState:
    """Return the training state that goes on where the original stopped.

    The key is the original's if the file has one, but it is used differently: here the key never
    changes, and the randomness of step n is `fold_in(key, n)`.

    Raises:
        Misfit: a parameter, average or moment is missing, left over, or of another shape.
    """
    params = fitted("parameter", original.params, target)
    ema_params = fitted("average of parameter", original.ema_params, target)
    adam = optax.ScaleByAdamState(
        count=jnp.asarray(original.adam_step, jnp.int32),
        mu=fitted("first moment of parameter", original.mu, target),
        nu=fitted("second moment of parameter", original.nu, target),
    )
    return TrainState(
        step=jnp.asarray(original.step, jnp.int32),
        params=params,
        ema_params=ema_params,
        opt_state=optimizer_state(target.state.opt_state, adam, original.step),
        key=typed_key(original.rng, seed),
    )


def fitted(name: str, source: dict[str, Any], target: Target) -> Any:
    """Return `source` as arrays in the shapes of the target's parameters.

    `name` says in the error what `source` is. Raises Misfit if an array is missing, left over, or
    of another shape.
    """
    found = fit(source, target.state.params)
    there, here = shapes(source), shapes(target.state.params)
    wrong = {*found.missing, *found.unexpected, *(path for path, _, _ in found.mismatched)}
    # From the input to the output, because the first difference often causes the later ones.
    order = {layer: number for number, layer in enumerate(target.layers)}
    in_order = sorted(wrong, key=lambda path: (order.get(path.split("/")[0], len(order)), path))
    lines = tuple(
        f"{name} {path} has shape {there.get(path, 'none')} there and {here.get(path, 'none')} in "
        "the config"
        for path in in_order
    )
    if lines:
        raise Misfit(
            f"The checkpoint is of another network: {lines[0]}; take the config it was trained "
            "with.",
            lines,
        )
    as_ours = lambda leaf, like: np.asarray(leaf, like.dtype)
    return jax.tree.map(as_ours, found.params, target.state.params)


def shapes(tree: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    return {"/".join(path): np.shape(leaf) for path, leaf in flatten_dict(tree).items()}


def optimizer_state(abstract: Any, adam: optax.ScaleByAdamState, step: int) -> Any:
    """Fill Adam's state and the schedule's count into the state of the optimizer chain."""

    def fill(node: Any) -> Any:
        if isinstance(node, optax.ScaleByAdamState):
            return adam
        if isinstance(node, optax.ScaleByScheduleState):
            return node._replace(count=jnp.asarray(step, jnp.int32))
        raise TypeError(f"The optimizer holds a {node}, which score_sde does not.")

    known = (optax.ScaleByAdamState, optax.ScaleByScheduleState)
    return jax.tree.map(fill, abstract, is_leaf=lambda node: isinstance(node, known))


def typed_key(rng: np.ndarray | None, seed: int) -> jax.Array:
    if rng is None:
        return jax.random.key(seed)
    return jax.random.wrap_key_data(jnp.asarray(rng), impl="threefry2x32")
