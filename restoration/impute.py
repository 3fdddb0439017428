"""Imputation: known coordinates are overwritten while the others are sampled (Song et al. 2021,
section 5 and algorithms 4 and 5, there for inpainting and colouring).

With a measurement `y = A x0` whose rows are orthonormal, `A A^T = I`, a mask or a mask in another
basis, each step of a sampler from t to s is followed by

    x_s <- x_s + A^T (y_s - A x_s),      y_s = a(s) y + c(s) z,     z fresh

so that what is known is a draw of the law at s given y. The unknown part then follows the score at
`(x_s, y_s)`, which knows y only as far as y_s does: it lags behind at high noise. The bias falls
with steps of a Langevin corrector, which forget the way, and with `repaint`.
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
    Samples end as the law has them at the last node, or with `denoise` as conditional means;
    `fill` then puts the known coordinates as they are.

    Args:
        parts: a predictor, and steps of a corrector beside it, in order; at least one.
        operator: with orthonormal rows, such as "mask", "greyscale" and "complex_fourier".
        y: `shape_out`, one measurement for all, or `(B, *shape_out)`; without noise.

    Raises:
        ValueError: for an operator whose rows are not orthonormal, a y that is not the operator's,
            a law that is not affine, or no parts.
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
    """The configured sampler, with what is known overwritten after each part of a step."""
    check_exact(problem)
    path, operator, parts = problem.path, problem.operator, problem.parts
    down = down_the_grid(problem, lambda y: impute(path, operator, y, *parts))
    return filled(problem, down)


def filled(problem: Problem, restorer: Restorer) -> Restorer:
    """The same, with what is known put as it is known at the end."""

    def run(keys: Array, predict: PredictFn, x: Array, y: Array) -> SampleResult:
        result = restorer.run(keys, predict, x, y)
        return result._replace(x=fill(problem.operator, y, result.x))

    return Restorer(run)


def overwriting(path: AffinePath, operator: LinearOperator, y: Array, sampler: Sampler) -> Sampler:
    """`sampler`, and after its step a draw of what is known, in place of what is there."""

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
    """`x - A^T A x + A^T y`: what is known as it is known, and the others of x `(B, ...)`."""
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
