"""Any matrix as an operator."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from operators.base import SVD, LinearOperator
from operators.named import read_matrix
from sde_lib import rows

FULL = jax.lax.Precision.HIGHEST  # by default accelerators multiply in a lower precision
# Singular values below this share of the largest are rounding errors of float64 and count as zero.
RANK = 1e-13


def matrix(
    shape: tuple[int, ...],
    A: np.ndarray | str = "",
    shape_out: tuple[int, ...] | None = None,
    svd: bool = True,
    name: str = "matrix",
) -> LinearOperator:
    """`y = A x0` for A `(m, D)`, D the number of values of a state of that `shape`.

    Args:
        A: the matrix, or a `.npy` file of it.
        shape_out: of y, `(m,)` by default.
        svd: also take NumPy's singular value decomposition, of cost `m D min(m, D)`.

    Raises:
        ValueError: for a matrix that does not fit the shapes, is zero or is not finite.
    """
    A = np.asarray(read_matrix(A) if isinstance(A, str) else A, np.float64)
    size, out = int(np.prod(shape)), shape_out or A.shape[:1]
    if A.ndim != 2 or A.shape != (int(np.prod(out)), size):
        raise ValueError(
            f"The matrix has shape {A.shape}; from states of shape {tuple(shape)} to measurements "
            f"of shape {tuple(out)} it needs ({int(np.prod(out))}, {size})."
        )
    if not np.all(np.isfinite(A)) or not np.any(A):
        raise ValueError("The matrix is zero or not finite; give one that measures something.")
    forward, adjoint = times(A, tuple(out)), times(A.T, tuple(shape))
    parts = decompose(A, tuple(shape), tuple(out)) if svd else None
    return LinearOperator(name, tuple(shape), tuple(out), forward, adjoint, parts)


def times(M: np.ndarray, shape: tuple[int, ...]):
    """`x -> M x` on flattened examples, to that shape."""

    def multiply(x: Array) -> Array:
        flat = rows(x)
        return jnp.matmul(flat, jnp.asarray(M.T, x.dtype), precision=FULL).reshape(-1, *shape)

    return multiply


def decompose(A: np.ndarray, shape_in: tuple[int, ...], shape_out: tuple[int, ...]) -> SVD:
    """The singular value decomposition, of the rank k of A."""
    U, s, Vt = np.linalg.svd(A, full_matrices=False)
    k = int(np.sum(s > RANK * s[0]))
    U, s, Vt = U[:, :k], s[:k], Vt[:k]
    return SVD(s, times(Vt, (k,)), times(Vt.T, shape_in), times(U.T, (k,)), times(U, shape_out))
