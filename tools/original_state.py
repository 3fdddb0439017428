"""A training state of score_sde, from either of its two codes, and the checks of its numbers."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from flax.traverse_util import flatten_dict

MOST_STEPS = 2**31  # steps are int32 in a training state
TREES = {
    "params": "parameter",
    "ema_params": "average of parameter",
    "mu": "first moment of parameter",
    "nu": "second moment of parameter",
}


class OriginalState(NamedTuple):
    """A training state of score_sde, from either format, with the parameter paths of its JAX code.

    - `step`: number of updates, on which the warm-up depends; `adam_step`: the count of Adam.
    - `params`, `ema_params`, `mu`, `nu`: nested dicts of arrays with the axes of the JAX code; only
      axes of size 1 may be missing.
    - `rng`: uint32 (2,), or None if the file has no key.
    - `settings`: numbers that belong to a config here, by their key, such as `training.ema_rate`.
    - `left_out`: the other parts of the file, one line each.
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


def checked(original: OriginalState, path: Path) -> OriginalState:
    """Return the state unchanged if a network and Adam can have its numbers.

    Raises:
        ValueError: for a leaf that is not an array of real numbers, is not finite in float32, or is
            a negative mean of squares.
    """
    for field, name in TREES.items():
        for at, leaf in flatten_dict(getattr(original, field)).items():
            if fault := fault_of(leaf, squares=field == "nu"):
                raise ValueError(
                    f"{path} is damaged: the {name} {'/'.join(map(str, at))} {fault}; take another "
                    "checkpoint of that run."
                )
    return original


def fault_of(leaf: Any, squares: bool) -> str | None:
    """The fault of an array of a state, in words; None if there is none."""
    if not isinstance(leaf, np.ndarray | np.generic):
        return f"is a {type(leaf).__name__}, and not an array"
    if not np.can_cast(leaf.dtype, np.float64, "same_kind") or leaf.dtype.kind == "b":
        return f"holds {leaf.dtype}, and not real numbers"
    with np.errstate(over="ignore"):
        values = np.asarray(leaf, np.float32)
    if not np.isfinite(values).all():
        return f"holds {count(~np.isfinite(values))} not finite in float32"
    if squares and (values < 0).any():
        return f"holds {count(values < 0)} negative"
    return None


def count(wrong: np.ndarray) -> str:
    n = int(wrong.sum())
    return f"{n} {'value that is' if n == 1 else 'values that are'}"


def steps(value: Any, name: str, path: Path) -> int:
    """A number of steps as an int; newer releases of torch keep it as a float.

    Raises:
        ValueError: if the number is not an integer from 0 to 2^31 - 1.
    """
    found = number(value)
    if found is None or not (0 <= found < MOST_STEPS and found == np.floor(found)):
        told = f"a {type(value).__name__}" if found is None else repr(found.item())
        raise ValueError(
            f"{path} is damaged: its {name} is {told}, and not a number of steps, an integer from "
            "0 below 2^31; take another checkpoint of that run."
        )
    return int(found)


def setting(value: Any, name: str, path: Path) -> float:
    """Return a number that belongs to a config here, rounded to float32.

    Raises:
        ValueError: `value` is not a finite real number.
    """
    found = number(value)
    if found is None or not np.isfinite(found):
        raise ValueError(
            f"{path} is damaged: its {name} is no finite number; take another checkpoint of that "
            "run."
        )
    return float(np.float32(found))


def number(value: Any) -> np.ndarray | None:
    """A real number as an array without axes; None for anything else."""
    if not isinstance(value, int | float | np.generic | np.ndarray):
        return None
    found = np.asarray(value)
    return found if found.shape == () and found.dtype.kind in "iuf" else None


def deeper(tree: Any, deepest: int) -> bool:
    """Whether dicts, lists and tuples are nested more than `deepest` deep, without recursion."""
    level = [tree]
    for _ in range(deepest + 1):
        held = [
            node.values() if isinstance(node, Mapping) else node for node in level if inner(node)
        ]
        level = [child for nodes in held for child in nodes]
        if not level:
            return False
    return True


def inner(node: Any) -> bool:
    return isinstance(node, Mapping | list | tuple)
