"""What a state disagrees with: a misfit `mu(x)`, such as `-log p(y | x)`, in nats.

    mu(x) = |y - A x|^2 / (2 noise_std^2) + m log(2 pi noise_std^2) / 2

of a linear measurement of m values has the constant Hessian `A^T A / noise_std^2`, diagonal in the
singular basis of A: what is needed of it is known in closed form. Of any other misfit one gives the
value, and derivatives are taken from that.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from operators import LinearOperator, dense, matrix
from operators.base import check_measurement
from sde_lib import dot, total
from sde_lib.noise import rademacher_like

ValueFn = Callable[[Array], Array]

# The most values of a state or a measurement for which an operator is written out as a matrix.
MATRIX = 4096


class Quadratic(NamedTuple):
    """A linear measurement in the singular basis of its operator: `stiffness` `(k,)`, the
    eigenvalues `s^2 / noise_std^2` of the Hessian; `pull` `(1, k)`, `s U^T y / noise_std^2`; the
    maps `vt`, `(B, ...) -> (B, k)`, and `v` back; `log_evidence`, prior std to `log Z`.

    `Z` is the integral of `N(x; 0, std^2 I) exp(-mu(x))`.
    """

    stiffness: np.ndarray
    pull: Array
    vt: ValueFn
    v: ValueFn
    log_evidence: Callable[[Array], Array]


class Misfit(NamedTuple):
    """`value`, `(B, ...) -> (B,)` nats; the `shape` of one state; `laplacian`, `(B, ...) -> (B,)`,
    or None to estimate it; the largest eigenvalue of the Hessian, or None where it is not known;
    `quadratic`, None unless the measurement is linear."""

    value: ValueFn
    shape: tuple[int, ...]
    laplacian: ValueFn | None = None
    stiffest: float | None = None
    quadratic: Quadratic | None = None

    def gradient(self, x: Array) -> Array:
        return jax.grad(lambda x: jnp.sum(self.value(x)))(x)


def gaussian_misfit(operator: LinearOperator, y: Array, noise_std: float) -> Misfit:
    """`-log p(y | x)` for `y = A x + noise_std n`, one measurement of the operator's `shape_out`.

    Where the operator has no SVD it is written out as a matrix.

    Raises:
        ValueError: for a y that is not the operator's or a batch of them, a noise_std that is not
            positive, or an operator without an SVD and too large for a matrix.
    """
    check_measurement(operator, y)
    out, size = operator.shape_out, int(np.prod(operator.shape_out))
    if jnp.shape(y) != out:
        raise ValueError(
            f"There are {jnp.shape(y)[0]} measurements and a misfit is of one; map over them."
        )
    if not 0.0 < noise_std < float("inf"):
        raise ValueError(
            f"noise_std is {noise_std}; a misfit divides by it, so it must be above 0."
        )
    svd = operator.svd
    if svd is None:
        if max(size, int(np.prod(operator.shape_in))) > MATRIX:
            raise ValueError(
                f"The operator {operator.name!r} has no SVD and more than {MATRIX} values; take "
                "one that has, such as blur with the circular boundary, or give the misfit as a "
                "function."
            )
        svd = matrix(operator.shape_in, dense(operator), out).svd
    variance, s = noise_std**2, np.asarray(svd.s)
    constant = 0.5 * size * np.log(2.0 * np.pi * variance)

    def value(x: Array) -> Array:
        r = jnp.asarray(y, x.dtype)[None] - operator.forward(x)
        return 0.5 * total(r**2) / variance + constant

    given = jnp.asarray(y, jnp.result_type(float))[None]
    inside = jnp.where(s > 0.0, svd.ut(given), 0.0)

    def log_evidence(std: Array) -> Array:
        # N(0, std^2 A A^T + noise_std^2 I): along the columns of U, and outside them.
        total = std**2 * s**2 + variance
        outside = jnp.sum((given - svd.u(inside)) ** 2) / variance
        along = jnp.sum(jnp.where(s > 0.0, inside[0] ** 2 / total + jnp.log(total / variance), 0.0))
        return -0.5 * (outside + along) - constant

    hessian = s**2 / variance
    quadratic = Quadratic(hessian, inside * (s / variance), svd.vt, svd.v, log_evidence)
    laplacian = lambda x: jnp.full(x.shape[0], hessian.sum(), x.dtype)
    return Misfit(value, operator.shape_in, laplacian, float(hessian.max()), quadratic)


def measured_misfit(
    value: ValueFn,
    shape: tuple[int, ...],
    laplacian: ValueFn | None = None,
    stiffest: float | None = None,
) -> Misfit:
    """Any misfit, such as that of a measurement that is not linear, by its value `(B, ...) -> (B,)`
    in nats, differentiable.

    Args:
        shape: of one state.
        laplacian: `(B, ...) -> (B,)`; Hutchinson's estimate without it.
        stiffest: an upper bound of the eigenvalues of the Hessian, if one is known; then steps that
            are too long are refused.
    """
    return Misfit(value, tuple(shape), laplacian, stiffest)


def laplacian_of(misfit: Misfit, key: Array, probes: int = 1) -> ValueFn:
    """The Laplacian `(B, ...) -> (B,)`: the misfit's own, or Hutchinson's estimate of it.

    The mean of `v^T H v` over signs v, drawn here once: an unbiased function of x, whose error is
    the same for all states where the Hessian H is.
    """
    if misfit.laplacian is not None:
        return misfit.laplacian
    signs = rademacher_like(key, jnp.zeros((probes, *misfit.shape)))

    def estimate(x: Array) -> Array:
        def one(v: Array) -> Array:
            v = jnp.broadcast_to(v.astype(x.dtype), x.shape)
            return dot(v, jax.jvp(misfit.gradient, (x,), (v,))[1])

        return jnp.mean(jax.lax.map(one, signs), axis=0)

    return estimate
