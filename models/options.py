"""Options of networks: values for names, and the refusal of wrong names and numbers."""

from __future__ import annotations

import difflib
import math
import numbers
from collections.abc import Iterable, Sequence

import jax


def check_choice(option: str, value: object, known: Iterable[object]) -> None:
    """Raise ValueError unless `value` is one of `known`; the message lists them all."""
    known = list(known)
    if value in known:
        return
    near = difflib.get_close_matches(str(value), [str(k) for k in known], n=1, cutoff=0.4)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise ValueError(
        f"Unknown {option} {value!r}; known: {', '.join(repr(k) for k in known)}.{hint}"
    )


def check_sizes(**values: float) -> None:
    """Raise ValueError unless each value is positive and finite; use as `check_sizes(width=w)`."""
    for name, value in values.items():
        if not 0 < value < math.inf:
            raise ValueError(f"{name} is {value}; it must be positive and finite.")


def check_taps(**values: Sequence[float]) -> None:
    """Raise ValueError unless each value, the taps of a filter, is a non-empty tuple or list of
    real numbers."""
    for name, value in values.items():
        row = value if isinstance(value, tuple | list) else ()
        if not row or not all(isinstance(tap, numbers.Real) for tap in row):
            raise ValueError(
                f"{name} is {value!r}; it must be the taps of a filter, such as (1, 3, 3, 1)."
            )


def check_dropout(rate: float) -> None:
    if not 0 <= rate < 1:
        raise ValueError(f"dropout is {rate}; it must lie in [0, 1).")


ACTIVATIONS = {
    "elu": jax.nn.elu,
    "relu": jax.nn.relu,
    "lrelu": lambda x: jax.nn.leaky_relu(x, negative_slope=0.2),
    "swish": jax.nn.swish,
}


def activation(name: str):
    """The nonlinearity called `name`, a function of an array of any shape.

    Raises:
      ValueError: the name is unknown.
    """
    check_choice("nonlinearity", name, ACTIVATIONS)
    return ACTIVATIONS[name]
