"""Checks of the numbers that a constructor takes: one sentence with the value and the rule.

Traced values and arrays are not checked here; their callers check them.
"""

import math
import numbers
from collections.abc import Callable


def check(values: dict[str, object], holds: Callable[[float], bool], rule: str) -> None:
    """Raises ValueError for a number of which `holds` is false; nan is such a number."""
    for name, value in values.items():
        if isinstance(value, numbers.Real) and not holds(value):
            raise ValueError(f"{name} is {value}; it must {rule}.")


def positive(**values: object) -> None:
    """`positive(snr=snr)` refuses 0, negative numbers, inf and nan."""
    check(values, lambda x: 0 < x < math.inf, "be positive and finite")


def not_negative(**values: object) -> None:
    check(values, lambda x: 0 <= x < math.inf, "be finite and not negative")


def below_one(**values: object) -> None:
    check(values, lambda x: 0 <= x < 1, "lie in [0, 1)")


def rising(**values: object) -> None:
    """`rising(t0=t0, t1=t1)` refuses a first number that does not lie between 0 and the second."""
    (low, x), (high, y) = values.items()
    if all(isinstance(value, numbers.Real) for value in (x, y)) and not 0.0 < x < y:
        raise ValueError(f"{low} is {x}; it must lie between 0 and {high} = {y}.")


def strength(**values: object) -> None:
    """`strength(scale=w)` refuses a factor that no guide can have, such as inf and nan."""
    check(values, lambda x: abs(x) <= 1e6, "lie between -1e6 and 1e6")


def up_to_one(**values: object) -> None:
    check(values, lambda x: 0 <= x <= 1, "lie in [0, 1]")


def pair(**values: object) -> None:
    """`pair(sizes=v)` refuses anything but a row of two numbers."""
    for name, value in values.items():
        row = value if isinstance(value, tuple | list) else ()
        if len(row) != 2 or not all(isinstance(x, numbers.Real) for x in row):
            raise ValueError(f"{name} is {value!r}; it must be two numbers, (low, high).")


def one_of(known: tuple[str, ...], **values: str) -> None:
    """`one_of(("data", "noise"), form=form)` refuses any other name."""
    for name, value in values.items():
        if value not in known:
            raise ValueError(f"{name} is {value!r}; it must be one of {', '.join(known)}.")
