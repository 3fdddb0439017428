"""Imputation: known coordinates are overwritten while the others are sampled (Song et al. 2021,
section 5 and algorithms 4 and 5, there for inpainting and colouring).

The measurement `y = A x0` must have orthonormal rows, `A A^T = I`, as a mask or a mask in another
basis has. Each step of a sampler from t to s is followed by

    x_s <- x_s + A^T (y_s - A x_s),      y_s = a(s) y + c(s) z,     z fresh

so the known coordinates are a draw of the law at s given y. The unknown coordinates then follow the
score at `(x_s, y_s)`. This score depends on y only through the noisy y_s, so at high noise the
unknown part adapts too little to y. Langevin correctors, which forget earlier states, and `repaint`
reduce this bias.
"""

import numpy as np
from jax import Array

from guidance.base import check_problem, observed
from operators import LinearOperator
from restoration.base import Problem, Restorer, check_exact, down_the_grid
from samplers import Sampler, SampleResult, Span, State, chain
from sde_lib import AffinePath, expand, normal_like, split
from sde_lib.prediction import PredictFn


def impute(path: AffinePath, operator: LinearOperator, y: Array, *parts: Sampler) -> Sampler:
    """The parts of a step, one after the other, with the known coordinates overwritten after each.

    The start `x` is a draw of the prior: `enter` adds `A^T a(t1) y`, once, which makes it a draw of
    the law at t1.
    Samples end with the noise of the last node, or with `denoise` as conditional means. `fill` then
    sets the known coordinates to their exact values.

    Args:
        parts: at least one sampler, usually a predictor and optional correctors, in order.
        operator: an operator with orthonormal rows, such as "mask", "greyscale" and
            "complex_fourier".
        y: `shape_out`, one measurement for all, or `(B, *shape_out)`; without noise.

    Raises:
        ValueError: for an operator whose rows are not orthonormal, a y that does not fit the
            operator, a law that is not affine, or no parts.
    """
    check_problem(path, operator, y, 0.0)
    check_orthonormal(operator)
    if not parts:
        raise ValueError("There are no parts of a step to overwrite after; give a sampler.")
    wrapped = [overwriting(path, operator, y, part) for part in parts]
    method = wrapped[0] if len(wrapped) == 1 else chain(*wrapped)

    def enter(x: Array, t: Array) -> Array:
        x, a = method.enter(x, t), path.coeffs(t).a
        given = observed(operator, y, x)
        return x + operator.adjoint(expand(a, given) * given)

    return method._replace(enter=enter)


def by_imputing(problem: Problem) -> Restorer:
    """The configured sampler, with the known coordinates overwritten after each part of a step."""
    check_exact(problem)
    path, operator, parts = problem.path, problem.operator, problem.parts
    down = down_the_grid(problem, lambda y: impute(path, operator, y, *parts))
    return filled(problem, down)


def filled(problem: Problem, restorer: Restorer) -> Restorer:
    """`restorer`, with the known coordinates set to their exact values at the end."""

    def run(keys: Array, predict: PredictFn, x: Array, y: Array) -> SampleResult:
        result = restorer.run(keys, predict, x, y)
        return result._replace(x=fill(problem.operator, y, result.x))

    return Restorer(run)


def overwriting(path: AffinePath, operator: LinearOperator, y: Array, sampler: Sampler) -> Sampler:
    """`sampler`, whose known coordinates are replaced after each step by a draw at s given y."""

    def step(key: Array, predict: PredictFn, state: State, span: Span) -> State:
        own, drawing = split(key, 2)
        state = sampler.step(own, predict, state, span)
        a, c = path.coeffs(span.s)
        given, x = observed(operator, y, state.x), state.x
        z = operator.forward(normal_like(drawing, x))
        noisy = expand(a, z) * given + expand(c, z) * z
        return state._replace(x=overwrite(operator, noisy, x))

    return sampler._replace(step=step, kernel=None)


def fill(operator: LinearOperator, y: Array, x: Array) -> Array:
    """`x - A^T A x + A^T y`: the known coordinates from y, all others from x `(B, ...)`."""
    return overwrite(operator, observed(operator, y, x), x)


def overwrite(operator: LinearOperator, y: Array, x: Array) -> Array:
    # In this order a mask gives y to the last bit.
    return (x - operator.adjoint(operator.forward(x))) + operator.adjoint(y)


def check_orthonormal(operator: LinearOperator) -> None:
    if operator.svd is None or not np.allclose(operator.svd.s, 1.0):
        raise ValueError(
            f"The operator {operator.name!r} has rows that are not orthonormal, and imputation "
            "overwrites coordinates; take 'mask', 'greyscale', 'complex_fourier' or another method."
        )
