"""Checkpoints of score_sde's JAX code: one msgpack file that holds a whole training state.

They were written by flax up to 0.5, as `checkpoint_<n>` without a suffix. The tree is

    step, lr, ema_rate, rng                        scalars, and a key of two uint32
    optimizer/target/<path>                        parameters
    optimizer/state/step                           number of updates by Adam
    optimizer/state/param_states/<path>/grad_ema   Adam's first moment; grad_sq_ema, the second
    params_ema/<path>                              averaged parameters
    model_state                                    empty: the networks have no other variables
"""

import mmap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flax.serialization import msgpack_restore
from flax.traverse_util import flatten_dict, unflatten_dict

from tools.original_state import OriginalState, checked, deeper, setting, steps

MOMENTS = ("grad_ema", "grad_sq_ema")
DEEPEST = 100  # the dicts of a network have a depth of about ten
KNOWN = ("step", "lr", "ema_rate", "rng", "optimizer/target", "optimizer/state/step", "params_ema")


def read_flax(path: Path) -> OriginalState:
    """Read the training state from a checkpoint of the JAX code.

    Raises:
        ValueError: the file is cut short, is not such a checkpoint, lacks a part, or holds a value
            that no training state can have.
    """
    tree = _restore(path)
    try:
        return checked(_state(tree, path), path)
    except (AttributeError, IndexError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is not a training state of score_sde: its parts are of other kinds "
            f"({type(error).__name__}: {error})."
        ) from error


def _state(tree: dict[str, Any], path: Path) -> OriginalState:
    moments = flatten_dict(_at(tree, "optimizer/state/param_states", path, Mapping))
    mu, nu = (
        unflatten_dict({at[:-1]: leaf for at, leaf in moments.items() if at[-1] == name})
        for name in MOMENTS
    )
    rng = np.asarray(_at(tree, "rng", path, np.ndarray))
    if rng.dtype != np.uint32 or rng.shape != (2,):
        raise ValueError(
            f"rng in {path} is {rng.dtype} of shape {rng.shape}; a key of score_sde is uint32 (2,)."
        )
    return OriginalState(
        step=steps(_at(tree, "step", path, object), "step", path),
        adam_step=steps(_at(tree, "optimizer/state/step", path, object), "step of Adam", path),
        params=_at(tree, "optimizer/target", path, Mapping),
        ema_params=_at(tree, "params_ema", path, Mapping),
        mu=mu,
        nu=nu,
        rng=rng,
        settings={
            ours: setting(tree[theirs], theirs, path)
            for ours, theirs in (("optim.lr", "lr"), ("training.ema_rate", "ema_rate"))
            if theirs in tree
        },
        left_out=_left_out(tree),
    )


def _restore(path: Path) -> dict[str, Any]:
    """Return the tree of the file. The bytes are memory-mapped, so only the arrays take memory."""
    try:
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            tree = msgpack_restore(data)
    except OSError:
        raise
    except Exception as error:
        if "incomplete" in str(error):
            raise ValueError(f"{path} is cut short: copy it again.") from error
        raise ValueError(
            f"{path} is not a checkpoint of score_sde: neither the msgpack of its JAX code nor the "
            "zip file of its PyTorch code can be read from it."
        ) from error
    if deeper(tree, DEEPEST):
        raise ValueError(
            f"{path} is not a training state of score_sde: it is nested more than {DEEPEST} deep."
        )
    if not _is_named(tree) or "optimizer" not in tree:
        held = ", ".join(sorted(map(str, tree))[:8]) if isinstance(tree, dict) else repr(tree)[:60]
        raise ValueError(
            f"{path} is not a training state of score_sde: it holds {held or 'nothing'}, and not "
            "step, optimizer, params_ema and rng."
        )
    return tree


def _is_named(tree: Any) -> bool:
    """Whether `tree` is a dict whose keys are strings, and so in all dicts inside it."""
    return isinstance(tree, dict) and all(
        isinstance(key, str) and (not isinstance(node, dict) or _is_named(node))
        for key, node in tree.items()
    )


def _at(tree: Any, where: str, path: Path, kind: Any) -> Any:
    """Return the node at the path `where` (`a/b/c`). Raises ValueError if it is not of `kind`."""
    node = tree
    for key in where.split("/"):
        node = node.get(key) if isinstance(node, dict) else None
    if node is None or not isinstance(node, kind):
        found = "has no" if node is None else f"holds a {type(node).__name__} for"
        raise ValueError(f"{path} {found} {where}: it is not a training state of score_sde.")
    return node


def _left_out(tree: dict[str, Any]) -> tuple[str, ...]:
    """Return the paths of the leaves that have no place in a training state here."""
    flat = ["/".join(at) for at in flatten_dict(tree)]
    return tuple(
        at
        for at in flat
        if not any(at == known or at.startswith(f"{known}/") for known in KNOWN)
        and not (at.startswith("optimizer/state/param_states/") and at.endswith(MOMENTS))
    )
