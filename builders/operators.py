"""The linear measurement operator that a config names."""

from ml_collections import ConfigDict

import operators
from builders.checks import choose
from builders.steps import construct


def build_operator(section: ConfigDict, shape: tuple[int, ...]) -> operators.LinearOperator:
    """Build the operator that the section `guidance` names, for examples of shape `shape`.

    Raises:
        ValueError: for an unknown name, or an operator for other shapes.
    """
    name = section.operator
    make = choose("guidance.operator", name, operators.OPERATORS)
    return construct(f"guidance.{name}", make, section.get(name, {}), shape=shape)
