"""A training state of score_sde as one of ours, every leaf in its place or nothing at all."""

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
    """Parameters that do not fit the network. One sentence; `lines` name every one of them."""

    def __init__(self, sentence: str, lines: tuple[str, ...]):
        super().__init__(sentence)
        self.lines = lines


class Target(NamedTuple):
    """What the config makes of a run: the shapes of its state, and its layers in calling order."""

    state: TrainState
    layers: tuple[str, ...]


def train_state(original: OriginalState, target: Target, seed: int) -> TrainState:
    """The state of ours that goes on where the original stopped.

    The key is the original's, if the file has one, but not its use: ours never changes, and the
    randomness of step n is `fold_in(key, n)`.

    Raises:
        Misfit: where a parameter, or an average or moment of one, has no place or is not there.
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
    """`source` as arrays in the shapes of our parameters; `name` says in the error what it is."""
    found = fit(source, target.state.params)
    there, here = shapes(source), shapes(target.state.params)
    wrong = {*found.missing, *found.unexpected, *(path for path, _, _ in found.mismatched)}
    # From the input to the output: the first difference is the one to mend.
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
    """The state of the optimizer chain, wherever in it Adam and the schedule stand."""

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
