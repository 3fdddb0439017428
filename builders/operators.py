"""The operator of linear measurements that a config names."""

from ml_collections import ConfigDict

import operators
from builders.checks import choose
from builders.steps import construct


def build_operator(section: ConfigDict, shape: tuple[int, ...]) -> operators.LinearOperator:
    """The operator that the section names, for examples of that shape.

    Raises:
        ValueError: for a name that is not known, or an operator that does not take such examples.
    """
    name = section.operator
    make = choose("guidance.operator", name, operators.OPERATORS)
    return construct(f"guidance.{name}", make, section.get(name, {}), shape=shape)
