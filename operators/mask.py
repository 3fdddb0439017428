"""Inpainting: the values of a state that a mask keeps."""

import jax.numpy as jnp
import numpy as np

from operators.base import SVD, LinearOperator
from operators.named import named_mask


def mask(shape: tuple[int, ...], keep: np.ndarray | str = "box") -> LinearOperator:
    """`y = x0[keep]`, the m kept values in the order of the state's axes, `(B, m)`.

    Args:
        shape: of one state, `(H, W, C)` or any other.
        keep: ones and zeros (or booleans) of that shape; or `(H, W)`, for all channels alike; or
            "box", "left", "top", "half", or a file, npy or a picture (`named_mask`).

    All singular values are one. y holds the kept values alone, so there is no noise elsewhere.

    Raises:
        ValueError: for a mask of another shape, with other values, or that keeps nothing.
    """
    keep = named_mask(keep, shape) if isinstance(keep, str) else keep
    keep = broadcast_mask("mask", shape, keep)
    kept = np.flatnonzero(keep)
    size = keep.size

    forward = lambda x: x.reshape(x.shape[0], size)[:, kept]

    def adjoint(y):
        full = jnp.zeros((y.shape[0], size), y.dtype).at[:, kept].set(y)
        return full.reshape(y.shape[0], *shape)

    same = lambda z: z
    svd = SVD(np.ones(len(kept)), forward, adjoint, same, same)
    return LinearOperator("mask", tuple(shape), (len(kept),), forward, adjoint, svd)


def broadcast_mask(name: str, shape: tuple[int, ...], keep: np.ndarray) -> np.ndarray:
    """The mask as booleans of the whole `shape`, checked."""
    keep = np.asarray(keep)
    if keep.shape == tuple(shape[:-1]) and len(shape) == 3:
        keep = np.broadcast_to(keep[..., None], shape)
    if keep.shape != tuple(shape):
        raise ValueError(
            f"{name} has shape {keep.shape} and a state {tuple(shape)}; give that shape, or for an "
            "image (H, W)."
        )
    if not np.all((keep == 0) | (keep == 1)):
        wrong = keep[(keep != 0) & (keep != 1)][0]
        raise ValueError(f"{name} has the value {wrong}; keep is 1 for what is measured, else 0.")
    if not np.any(keep):
        raise ValueError(f"{name} keeps nothing of {keep.size} values; set at least one to 1.")
    return keep.astype(bool)
