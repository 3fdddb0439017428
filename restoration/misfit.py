"""The misfit `mu(x)` of a state to a measurement, such as `-log p(y | x)`, in nats.

A linear measurement of m values has

    mu(x) = |y - A x|^2 / (2 noise_std^2) + m log(2 pi noise_std^2) / 2

with the constant Hessian `A^T A / noise_std^2`. The Hessian is diagonal in the singular basis of A,
so all that the samplers need is known in closed form. Any other misfit is given by its value, and
its derivatives are taken automatically.
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

# An operator is written out as a matrix for at most this many values of a state or a measurement.
MATRIX = 4096


class Quadratic(NamedTuple):
    """A linear measurement in the singular basis of its operator.

    `stiffness` `(k,)` are the eigenvalues `s^2 / noise_std^2` of the Hessian; `pull` `(1, k)` is
    `s U^T y / noise_std^2`; `vt` maps `(B, ...) -> (B, k)` and `v` maps back; `log_evidence` maps
    the prior's std to `log Z`, where `Z` is the integral of `N(x; 0, std^2 I) exp(-mu(x))`.
    """

    stiffness: np.ndarray
    pull: Array
    vt: ValueFn
    v: ValueFn
    log_evidence: Callable[[Array], Array]


class Misfit(NamedTuple):
    """A misfit: `value`, `(B, ...) -> (B,)` in nats; the `shape` of one state; `laplacian`,
    `(B, ...) -> (B,)`, or None to estimate it; `stiffest`, the largest eigenvalue of the Hessian or
    an upper bound, or None if unknown; `quadratic`, None unless the measurement is linear."""

    value: ValueFn
    shape: tuple[int, ...]
    laplacian: ValueFn | None = None
    stiffest: float | None = None
    quadratic: Quadratic | None = None

    def gradient(self, x: Array) -> Array:
        return jax.grad(lambda x: jnp.sum(self.value(x)))(x)


def gaussian_misfit(operator: LinearOperator, y: Array, noise_std: float) -> Misfit:
    """`-log p(y | x)` for `y = A x + noise_std n`, one measurement of the operator's `shape_out`.

    An operator without an SVD is written out as a matrix.

    Raises:
        ValueError: for a y that does not fit the operator, a batch of measurements, a noise_std
            that is not positive, or an operator without an SVD that is too large for a matrix.
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
        # y ~ N(0, std^2 A A^T + noise_std^2 I): the parts along the columns of U, and outside them.
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
    """A misfit given by a function, such as that of a nonlinear measurement.

    Args:
        value: `(B, ...) -> (B,)` in nats, differentiable.
        shape: the shape of one state.
        laplacian: `(B, ...) -> (B,)`; by default Hutchinson's estimate.
        stiffest: an upper bound of the Hessian's eigenvalues, if known. `ensemble` then refuses
            steps that are too long.
    """
    return Misfit(value, tuple(shape), laplacian, stiffest)


def laplacian_of(misfit: Misfit, key: Array, probes: int = 1) -> ValueFn:
    """The Laplacian `(B, ...) -> (B,)`: the misfit's own, or Hutchinson's estimate of it.

    The estimate is the mean of `v^T H v` over random sign vectors v, which are drawn once. It is
    unbiased, and its error is the same for all states if the Hessian H is.
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
