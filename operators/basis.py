"""An operator on the coordinates of a state in another orthogonal basis of its last axis."""

import jax
import jax.numpy as jnp
import numpy as np

from operators.base import SVD, LinearOperator, check_grid
from operators.mask import mask

FULL = jax.lax.Precision.HIGHEST

# Song et al. 2021, appendix I.3: the first coordinate is grey, (R + G + B) / sqrt(3); the other two
# are colour.
COLOUR = np.array([[1.0, -2.0, 0.0], [1.0, 1.0, 1.0], [1.0, 1.0, -1.0]])
COLOUR = COLOUR / np.sqrt([3.0, 6.0, 2.0])


def in_basis(operator: LinearOperator, basis: np.ndarray) -> LinearOperator:
    """`operator` applied to `x R`, the coordinates of the last axis of x in the columns of R.

    Args:
        basis: R, orthogonal, `(C, C)`.

    Raises:
        ValueError: for a basis of another size, or one that is not orthogonal to 1e-6.
    """
    basis = np.asarray(basis, np.float64)
    channels = operator.shape_in[-1]
    if basis.shape != (channels, channels):
        raise ValueError(
            f"The basis has shape {basis.shape} and the last axis of a state {channels} values; "
            f"give ({channels}, {channels})."
        )
    error = np.max(np.abs(basis.T @ basis - np.eye(channels)))
    if not error < 1e-6:
        raise ValueError(
            f"The basis is off an orthogonal one by {error:.2g}; normalise its columns, for A^T is "
            "built from its transpose."
        )
    into = lambda x: jnp.matmul(x, jnp.asarray(basis, x.dtype), precision=FULL)
    back = lambda x: jnp.matmul(x, jnp.asarray(basis.T, x.dtype), precision=FULL)
    svd = operator.svd and SVD(
        operator.svd.s,
        lambda x: operator.svd.vt(into(x)),
        lambda z: back(operator.svd.v(z)),
        operator.svd.ut,
        operator.svd.u,
    )
    return operator._replace(
        name=f"{operator.name}, rotated",
        forward=lambda x: operator.forward(into(x)),
        adjoint=lambda y: back(operator.adjoint(y)),
        svd=svd,
    )


def greyscale(shape: tuple[int, int, int]) -> LinearOperator:
    """Colourisation: `(R + G + B) / sqrt(3)` of each pixel, `(B, H, W, 3) -> (B, H W)`.

    Raises:
        ValueError: for a shape that is not (H, W, 3).
    """
    check_grid("greyscale", shape)
    if shape[2] != 3:
        raise ValueError(f"greyscale has {shape[2]} channels; it takes 3, red, green and blue.")
    keep = np.zeros(shape)
    keep[..., 0] = 1.0
    return in_basis(mask(shape, keep), COLOUR)._replace(name="greyscale")
