"""Count the floating-point operations of a network's convolutions and matrix products.

Every multiplication counts as two operations. Kernel positions on the padding are left out, and so
are products with a single term or a single row, which are the broadcasts and sums of
`models/pixels.py`. Operations that only pass over memory are not counted. So the rate of a step,
relative to that of a matrix product, shows how much of the step is arithmetic.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
from jax.extend import core

from benchmarks.speed.taps import taps_inside


def work(function: Callable, *args: Any) -> float:
    """Return the FLOP of one call of `function`, which is traced and not run; args may be shapes.

    Raises:
        ValueError: the function has a dilated or grouped convolution.
    """
    return float(_of_jaxpr(jax.make_jaxpr(function)(*args).jaxpr))


def _of_jaxpr(jaxpr: core.Jaxpr) -> int:
    return sum(_of_equation(equation) for equation in jaxpr.eqns)


def _of_equation(equation: core.JaxprEqn) -> int:
    if equation.primitive.name == "dot_general":
        return _of_product(equation)
    if equation.primitive.name == "conv_general_dilated":
        return _of_convolution(equation)
    if equation.primitive.name == "conv3x3":
        return _of_definition(equation)
    times = equation.params.get("length", 1) if equation.primitive.name == "scan" else 1
    return times * sum(
        _of_jaxpr(getattr(inner, "jaxpr", inner))
        for value in equation.params.values()
        for inner in (value if isinstance(value, tuple | list) else [value])
        if hasattr(getattr(inner, "jaxpr", inner), "eqns")
    )


def _of_product(equation: core.JaxprEqn) -> int:
    (contracted, _), (batched, _) = equation.params["dimension_numbers"]
    left = equation.invars[0].aval.shape
    terms = math.prod(left[axis] for axis in contracted)
    rows = math.prod(left) // terms // math.prod(left[axis] for axis in batched)
    if terms == 1 or rows == 1:
        return 0
    return 2 * terms * equation.outvars[0].aval.size


def _of_definition(equation: core.JaxprEqn) -> int:
    """Return the operations of `models.winograd` by the definition of its convolution.

    Winograd's form has fewer products. Counting by the definition makes shares of the peak
    comparable, but a share can exceed one.
    """
    image, kernel = (variable.aval.shape for variable in equation.invars)
    inside = math.prod(taps_inside(size, size, 3, 1, 1) for size in image[1:3])
    return 2 * image[0] * inside * kernel[2] * kernel[3]


def _of_convolution(equation: core.JaxprEqn) -> int:
    """Return the operations of a convolution. Raises ValueError for dilation or groups."""
    params, numbers = equation.params, equation.params["dimension_numbers"]
    image, kernel = (variable.aval.shape for variable in equation.invars)
    dilations = *params["lhs_dilation"], *params["rhs_dilation"]
    if set(dilations) != {1} or params["feature_group_count"] != 1:
        raise ValueError(f"Dilated and grouped convolutions are not counted, got {params}.")
    out = equation.outvars[0].aval.shape
    outside = out[numbers.out_spec[0]] * out[numbers.out_spec[1]] * kernel[numbers.rhs_spec[1]]
    inside = 1
    for axis, (stride, (before, _)) in enumerate(zip(params["window_strides"], params["padding"])):
        size, length = (
            shape[spec[2 + axis]]
            for shape, spec in ((image, numbers.lhs_spec), (out, numbers.out_spec))
        )
        inside *= taps_inside(size, length, kernel[numbers.rhs_spec[2 + axis]], stride, before)
    return 2 * outside * inside
