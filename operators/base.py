"""A linear measurement: a map, its transpose, and its singular values where they are cheap.

    y = A x0 + noise_std n,    A = U diag(s) V^T

All functions are linear, act on batches `(B, ...)` and may be jitted, mapped and transposed.
Constants are NumPy arrays in float64 and are cast to the dtype of the state.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from sde_lib import normal_like

MapFn = Callable[[Array], Array]


class SVD(NamedTuple):
    """k singular values `s` `(k,)` >= 0, in any order, and the four maps between the bases.

    `vt`, `(B, *shape_in) -> (B, k)`, and `v` back; `ut`, `(B, *shape_out) -> (B, k)`, and `u` back.
    Columns of V are orthonormal. Columns of U with s > 0 are orthonormal too; those with s = 0 may
    be zero. A does not measure the part of a state outside of the columns of V.
    """

    s: np.ndarray
    vt: MapFn
    v: MapFn
    ut: MapFn
    u: MapFn


class LinearOperator(NamedTuple):
    """`forward`, `(B, *shape_in) -> (B, *shape_out)`, and `adjoint`, its transpose.

    `svd` is None if there is none in closed form or at little cost.
    """

    name: str
    shape_in: tuple[int, ...]
    shape_out: tuple[int, ...]
    forward: MapFn
    adjoint: MapFn
    svd: SVD | None = None


def measure(key: Array, operator: LinearOperator, x0: Array, noise_std: float) -> Array:
    """Draws `y = A x0 + noise_std n`, `(B, *shape_out)`; `key` is one key or one per example."""
    check_image(operator, x0.shape)
    y = operator.forward(x0)
    return y + noise_std * normal_like(key, y)


def dense(operator: LinearOperator) -> np.ndarray:
    """The matrix of an operator, `(m, D)`, from its action on the unit vectors."""
    size = int(np.prod(operator.shape_in))
    eye = np.eye(size, dtype=jnp.result_type(float)).reshape(-1, *operator.shape_in)
    return np.asarray(operator.forward(eye)).reshape(len(eye), -1).T


def svd_of_right(forward: MapFn, adjoint: MapFn, s: np.ndarray, vt: MapFn, v: MapFn) -> SVD:
    """The SVD from its right side: `U = A V / s`, and zero where s is zero.

    U is exact to rounding where singular values are of similar size. For a small s the error is
    `s_max / s` times as large.
    """
    inverse = np.where(s > 0.0, 1.0 / np.where(s > 0.0, s, 1.0), 0.0)
    scale = lambda z: z * jnp.asarray(inverse[None], z.dtype)
    return SVD(s, vt, v, lambda y: scale(vt(adjoint(y))), lambda z: forward(v(scale(z))))


def transpose_of(forward: MapFn, shape_in: tuple[int, ...]) -> MapFn:
    """The adjoint of a linear map, by transposing its program."""

    def adjoint(y: Array) -> Array:
        x = jax.ShapeDtypeStruct((y.shape[0], *shape_in), y.dtype)
        return jax.linear_transpose(forward, x)(y)[0]

    return adjoint


def check_image(operator: LinearOperator, shape: tuple[int, ...]) -> None:
    """Raises:
    ValueError: for a batch `(B, ...)` of states that the operator does not take.
    """
    if tuple(shape[1:]) != operator.shape_in:
        raise ValueError(
            f"The operator {operator.name!r} takes states of shape {operator.shape_in} and these "
            f"have {tuple(shape[1:])}; build it for that shape."
        )


def check_measurement(operator: LinearOperator, y: Array, batch: int | None = None) -> None:
    """Raises:
    ValueError: for a measurement that is neither `shape_out`, one for all, nor `(B, *shape_out)`.
    """
    shape, out = tuple(jnp.shape(y)), operator.shape_out
    if shape != out and shape[1:] != out:
        raise ValueError(
            f"The measurement has shape {shape} and {operator.name!r} gives {out}; pass one of "
            "that shape for all states, or one per state."
        )
    if batch is not None and shape != out and shape[0] not in (1, batch):
        raise ValueError(
            f"There are {shape[0]} measurements for a batch of {batch} states; pass one for all, "
            "or one per state (a sampler that maps over the batch sees states one at a time: map "
            "over the measurements with it)."
        )


def check_grid(name: str, shape: tuple[int, ...]) -> None:
    """Raises:
    ValueError: for a shape that is not that of an image, (H, W, C).
    """
    if len(shape) != 3 or min(shape) < 1:
        raise ValueError(f"{name} takes images and the shape is {tuple(shape)}; give (H, W, C).")
