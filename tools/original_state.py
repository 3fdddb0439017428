"""A training state of score_sde, whichever of its two codes wrote it, and what must hold of it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from flax.traverse_util import flatten_dict

MOST_STEPS = 2**31  # steps are int32 in a state of ours
TREES = {
    "params": "parameter",
    "ema_params": "average of parameter",
    "mu": "first moment of parameter",
    "nu": "second moment of parameter",
}


class OriginalState(NamedTuple):
    """A training state of score_sde, in either format, under the parameter paths of its JAX code.

    - `step`: updates made, which the warm-up counts; `adam_step`: those Adam has counted.
    - `params`, `ema_params`, `mu`, `nu`: nested dicts of arrays in the shapes of the file.
    - `rng`: uint32 (2,), or None where the file has no key.
    - `settings`: what our config says too, by its key there, such as `training.ema_rate`.
    - `left_out`: what else the file holds, one line each.
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
    """The same state, whose numbers are such as a network and Adam can have.

    Raises:
        ValueError: for what is no array of real numbers, is not finite in float32, or is a negative
            mean of squares.
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
    """What is wrong with an array of a state, in words; None where nothing is."""
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
    """A number of steps, which newer releases of torch keep as a float.

    Raises:
        ValueError: where it is no integer from 0 to 2^31 - 1.
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
    """A number that our config has too, in the precision of the file.

    Raises:
        ValueError: where it is no finite real number.
    """
    found = number(value)
    if found is None or not np.isfinite(found):
        raise ValueError(
            f"{path} is damaged: its {name} is no finite number; take another checkpoint of that "
            "run."
        )
    return float(np.float32(found))


def number(value: Any) -> np.ndarray | None:
    """A real number as an array without axes; None for whatever else."""
    if not isinstance(value, int | float | np.generic | np.ndarray):
        return None
    found = np.asarray(value)
    return found if found.shape == () and found.dtype.kind in "iuf" else None


def deeper(tree: Any, deepest: int) -> bool:
    """Whether dicts, lists and tuples are nested more than that, told without recursion."""
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
