"""Moment matching posterior sampling (Rozet, Andry, Lanusse, Louppe 2024, arXiv 2405.13712).

The data given x_t are approximated by a Gaussian with their true mean and covariance. The
covariance follows from the derivative of the denoiser (Efron 2011): with `J = d x0 / d x`,

    V = cov(x0 | x_t) = (c^2 / a) J,
    p(y | x_t) ~ N(y; A x0, noise_std^2 I + A V A^T),
    g = J^T A^T v,    (noise_std^2 I + A V A^T) v = y - A x0.

The system is solved in a few iterations, each with one product with J. The converged solution is
exact for Gaussian data, and otherwise exact to second order in the cumulants of the data. The paper
uses plain conjugate gradients. Conjugate residuals leave a smaller residual after the same number
of products. If the operator has an SVD, the solver is preconditioned with the matrix that `pigdm`
uses in place of `A V A^T`.
"""

import jax.numpy as jnp
from jax import Array

from guidance.base import (
    GuideFn,
    check_problem,
    residual,
    shift,
    with_pullback,
    with_pushforward,
    with_score,
)
from guidance.conjugate import SOLVERS, check_iterations
from guidance.pigdm import check_data_std, variance
from operators import LinearOperator
from sde_lib import AffinePath, expand
from sde_lib.prediction import Cond, PredictFn, Prediction, bound

PRODUCTS = {"vjp": with_pullback, "jvp": with_pushforward}


def mmps(
    path: AffinePath,
    operator: LinearOperator,
    y: Array,
    noise_std: float,
    iterations: int = 3,
    products: str = "vjp",
    solver: str = "cr",
    data_std: float | None = 1.0,
) -> GuideFn:
    """Moment matching posterior sampling as a guide, for any affine law.

    Args:
        y: `shape_out`, one measurement for all, or `(B, *shape_out)`.
        iterations: of the solver; exact with as many as the measurement has values.
        products: "vjp" takes J^T, as published; "jvp" takes J by forward derivatives, which is the
            same for an exact denoiser and six times faster through an NCSN++ on a CPU.
        solver: "cr", conjugate residuals, or "cg", conjugate gradients.
        data_std: the standard deviation of the data per value, for the preconditioner of operators
            with an SVD; None for no preconditioner, as published. It matters if singular values
            differ.

    The guide costs one evaluation of the network and `iterations + 1` products with its derivative,
    which reuse the stored activations.

    Raises:
        ValueError: for a law that is not affine, a y that does not fit the operator, a negative
            noise_std, no iterations, unknown products or solver, or a data_std that is not
            positive.
    """
    check_problem(path, operator, y, noise_std)
    check_iterations(iterations)
    if data_std is not None:
        check_data_std(data_std)
    if products not in PRODUCTS:
        raise ValueError(f"products is {products!r}; take one of {', '.join(PRODUCTS)}.")
    if solver not in SOLVERS:
        raise ValueError(f"solver is {solver!r}; take one of {', '.join(SOLVERS)}.")
    solve = SOLVERS[solver]

    def guide(predict: PredictFn) -> PredictFn:
        def guided(x: Array, t: Array, cond: Cond = None) -> Prediction:
            prediction, times = PRODUCTS[products](bound(predict, cond), x, t)
            r = residual(operator, y, prediction.x0)
            scale = expand(shift(path, t), x)
            spread = lambda v: operator.forward(scale * times(operator.adjoint(v)))
            matvec = lambda v: noise_std**2 * v + spread(v)
            if data_std is None or operator.svd is None:
                v = solve(matvec, r, iterations)
            else:
                ball = variance(path, data_std, t)
                rough = lambda r: solve_ball(operator, ball, noise_std**2, r)
                v = solve(matvec, r, iterations, rough)
            return with_score(path, prediction, x, t, times(operator.adjoint(v)))

        return guided

    return guide


def solve_ball(operator: LinearOperator, spread: Array, noise: float, r: Array) -> Array:
    """`(spread A A^T + noise I)^{-1} r` by the SVD, `(B, *shape_out)`.

    `spread` and `noise` are variances, `spread` `()` or `(B,)`. With `noise = 0` the result is the
    pseudo-inverse: the inverse on the range of A, and zero outside.
    """
    svd = operator.svd
    z = svd.ut(r)
    s = jnp.asarray(svd.s, r.dtype)[None]
    total = expand(jnp.asarray(spread, r.dtype), z) * s**2 + noise
    inside = svd.u(jnp.where(total > 0.0, 1.0 / jnp.where(total > 0.0, total, 1.0), 0.0) * z)
    return inside + (r - svd.u(z)) / noise if noise > 0.0 else inside
