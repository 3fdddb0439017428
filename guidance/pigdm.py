"""Pseudo-inverse guidance, PiGDM (Song, Vahdat, Mardani, Kautz 2023, ICLR).

The data given x_t are approximated by an isotropic Gaussian about their conditional mean x0:

    p(y | x_t) ~ N(y; A x0, r^2 A A^T + noise_std^2 I),
    g = J^T A^T (r^2 A A^T + noise_std^2 I)^{-1} (y - A x0).

`r^2 = c^2 s^2 / (c^2 + a^2 s^2)` is the variance given x_t of data N(m, s^2 I), for which the guide
is exact. The paper has s = 1, `r^2 = sigma^2 / (1 + sigma^2)`. The method is named after the
pseudo-inverse `A^T (A A^T)^{-1}` of the case without noise.
"""

import jax.numpy as jnp
from jax import Array

from guidance.base import GuideFn, check_problem, residual, through_network
from guidance.conjugate import check_iterations, conjugate_gradients
from operators import LinearOperator
from sde_lib import AffinePath, expand


def pigdm(
    path: AffinePath,
    operator: LinearOperator,
    y: Array,
    noise_std: float,
    data_std: float = 1.0,
    iterations: int = 50,
) -> GuideFn:
    """Pseudo-inverse guidance, for any affine law.

    Args:
        y: `shape_out`, one measurement for all, or `(B, *shape_out)`.
        data_std: s, the standard deviation of the data per value; the paper's is 1.
        iterations: of conjugate gradients, for an operator without an SVD. They do not evaluate
            the network.

    The guide costs one evaluation and one backward pass.

    Raises:
        ValueError: for a law that is not affine, a y that does not fit the operator, a negative
            noise_std, a data_std that is not positive, or no iterations.
    """
    check_problem(path, operator, y, noise_std)
    check_data_std(data_std)
    check_iterations(iterations)

    def gradient(x0: Array, t: Array) -> Array:
        spread = variance(path, data_std, t)
        return whitened(operator, spread, noise_std**2, residual(operator, y, x0), iterations)

    return through_network(path, gradient)


def variance(path: AffinePath, data_std: float, t: Array) -> Array:
    """`r^2`, the variance of x0 given x_t for data N(m, data_std^2 I); of the shape of t."""
    a, c = path.coeffs(t)
    return (c * data_std) ** 2 / (c**2 + (a * data_std) ** 2)


def whitened(
    operator: LinearOperator, spread: Array, noise: float | Array, r: Array, iterations: int
) -> Array:
    """`A^T (spread A A^T + noise I)^{-1} r`, `(B, *shape_out)` to `(B, *shape_in)`.

    `spread` and `noise` are variances, `()` or `(B,)`. The SVD of the operator is used if it has
    one; the part of r outside the range of A, and directions of s = 0, then drop out. Otherwise
    conjugate gradients take `iterations` iterations.
    """
    if operator.svd is None:
        scale = expand(jnp.asarray(spread, r.dtype), r)
        apply = lambda z: scale * operator.forward(operator.adjoint(z)) + expand(noise, r) * z
        return operator.adjoint(conjugate_gradients(apply, r, iterations))
    svd = operator.svd
    z = svd.ut(r)
    s = jnp.asarray(svd.s, r.dtype)[None]
    total = expand(jnp.asarray(spread, r.dtype), z) * s**2 + expand(noise, z)
    gain = jnp.where(total > 0.0, s / jnp.where(total > 0.0, total, 1.0), 0.0)
    return svd.v(gain * z)


def check_data_std(data_std: float) -> None:
    if not 0.0 < data_std < float("inf"):
        raise ValueError(
            f"data_std is {data_std}; the standard deviation of the data must be positive."
        )
