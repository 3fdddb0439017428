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
from typing import Any, NamedTuple

import numpy as np
from flax.serialization import msgpack_restore
from flax.traverse_util import flatten_dict, unflatten_dict

MOMENTS = ("grad_ema", "grad_sq_ema")
KNOWN = ("step", "lr", "ema_rate", "rng", "optimizer/target", "optimizer/state/step", "params_ema")


class OriginalState(NamedTuple):
    """A training state of score_sde, in either format, under the parameter paths of its JAX code.

    - `step`: number of updates, which the warm-up counts; `adam_step`: the count in Adam's state.
    - `params`, `ema_params`, `mu`, `nu`: nested dicts of float32 arrays in the shapes of the file.
    - `rng`: uint32 (2,), or None if the file has no key.
    - `settings`: numbers that a config here has too, by their key in it (`training.ema_rate`).
    - `left_out`: everything else in the file, one line each.
    """

    step: int
    adam_step: int
    params: dict[str, Any]
    ema_params: dict[str, Any]
    mu: dict[str, Any]
    nu: dict[str, Any]
    rng: np.ndarray | None
    settings: dict[str, float]
    left_out: tuple[str, ...]


def read_flax(path: Path) -> OriginalState:
    """Read the training state from a checkpoint of the JAX code.

    Raises:
        ValueError: the file is cut short, is not such a checkpoint, or lacks a part.
    """
    tree = _restore(path)
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
        step=int(_at(tree, "step", path, (np.ndarray, np.generic, int))),
        adam_step=int(_at(tree, "optimizer/state/step", path, (np.ndarray, np.generic, int))),
        params=_at(tree, "optimizer/target", path, Mapping),
        ema_params=_at(tree, "params_ema", path, Mapping),
        mu=mu,
        nu=nu,
        rng=rng,
        settings={
            ours: float(np.float32(tree[theirs]))
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
    if not isinstance(node, kind) or np.ndim(node) > 1:
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
