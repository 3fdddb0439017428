"""The Gaussian model of a data set: score and probability-flow ODE in closed form.

Wang & Vastola 2023 (arXiv 2303.02490) and 2024 (arXiv 2412.09726). For data N(m, U diag(L) U^T),
`x_t = a x0 + c z`, and `v = a^2 L + c^2`:

    score      -(d - U U^T d) / c^2 - U diag(1 / v) U^T d,          d = x - a m
    flow       x_t = a_t m + (c_t / c_s) d_perp + U diag(sqrt(v_t / v_s)) U^T d_s

Only the r directions of U are needed (Woodbury); `d_perp` is the part of d outside of them. At
large noise the noisy data are nearly Gaussian, so the flow may replace the start of a sampling run
(`samplers/around/teleport.py`).
"""

from collections.abc import Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from sde_lib.affine import AffinePath
from sde_lib.base import expand, rows
from sde_lib.prediction import PredictFn, prediction_of


class GaussianMoments(NamedTuple):
    """Mean `(D,)`, orthonormal directions `(D, r)` and variances along them `(r,)`, falling."""

    mean: np.ndarray
    U: np.ndarray
    L: np.ndarray


def moments(data: np.ndarray | Iterable[np.ndarray], rank: int | None = None) -> GaussianMoments:
    """Mean and principal directions of a data set, in the scale in which it is given.

    Args:
        data: one array `(n, ...)`, or an iterable of such batches, each seen once.
        rank: how many directions to keep at most; by default all that have any variance.

    The variances are those of the set: sums are divided by n, not by n - 1. Everything is computed
    in float64. One array of fewer examples than dimensions is decomposed by an SVD, at the cost
    n^2 D. Otherwise the `(D, D)` covariance is held in memory.

    Raises:
        ValueError: for no data, or a rank below 1 or above D.
    """
    batches = [data] if hasattr(data, "shape") else data
    flats = (rows(np.asarray(v, np.float64)) for v in batches if len(v))
    if hasattr(data, "shape") and 0 < len(data) < data[0].size:
        mean, U, variances = _by_svd(next(flats))
    else:
        mean, U, variances = _by_eigh(flats)
    if rank is not None and not 1 <= rank <= len(mean):
        raise ValueError(f"rank is {rank}; the data have {len(mean)} dimensions: take 1 to that.")
    # A variance that is zero is computed as a rounding error, which may be negative.
    floor = variances.max(initial=0.0) * len(mean) * np.finfo(np.float64).eps
    kept = int(np.sum(variances > floor)) if rank is None else rank
    return GaussianMoments(mean, U[:, :kept], np.maximum(variances[:kept], 0.0))


def _by_svd(flat: np.ndarray):
    mean = flat.mean(0)
    _, s, Vt = np.linalg.svd(flat - mean, full_matrices=False)
    return mean, Vt.T, s**2 / len(flat)


def _by_eigh(flats: Iterable[np.ndarray]):
    count, mean, scatter = 0, 0.0, 0.0
    for flat in flats:
        n, shift = len(flat), flat.mean(0) - mean
        centred = flat - flat.mean(0)
        # Scatters about two means merge into one about the common mean (Chan et al. 1979).
        scatter = scatter + centred.T @ centred + np.outer(shift, shift) * count * n / (count + n)
        mean, count = mean + shift * n / (count + n), count + n
    if not count:
        raise ValueError("There are no data; moments need at least 1 example.")
    L, U = np.linalg.eigh(scatter / count)
    return mean, U[:, ::-1], L[::-1]


def gaussian_predict(path: AffinePath, moments: GaussianMoments) -> PredictFn:
    """The exact prediction function `(x, t) -> Prediction` for Gaussian data of these moments."""

    def predict(x: Array, t: Array):
        a, c, v, mean, U, L = _at(path, moments, x, t)
        y, perp = _split(rows(x) - a * mean, U)
        x0 = mean + product(a * L / v * y, U.T)
        eps = product(c / v * y, U.T) + (0.0 if perp is None else perp / c)
        return prediction_of(path, x, t, x0.reshape(x.shape), eps.reshape(x.shape))

    return predict


def gaussian_flow(
    path: AffinePath, moments: GaussianMoments, x: Array, s: Array, t: Array
) -> Array:
    """The probability-flow ODE from s to t, in either direction, without any step.

    Args:
        x: the states at s, `(B, ...)`.
        s, t: times, `()` or `(B,)`. Where r < D, s must carry noise, `c_s > 0`.
    """
    a_s, c_s, v_s, mean, U, _ = _at(path, moments, x, s)
    a_t, c_t, v_t, _, _, _ = _at(path, moments, x, t)
    y, perp = _split(rows(x) - a_s * mean, U)
    moved = a_t * mean + product(jnp.sqrt(v_t / v_s) * y, U.T)
    if perp is not None:
        moved = moved + c_t / c_s * perp
    return moved.reshape(x.shape)


def _at(path: AffinePath, moments: GaussianMoments, x: Array, t: Array):
    """`a, c` as `()` or `(B, 1)`, `v` against `(B, r)`, and the moments in the dtype of x."""
    a, c = path.coeffs(jnp.asarray(t, jnp.promote_types(x.dtype, jnp.float32)))
    row = jnp.zeros((1, 1), x.dtype)
    a, c = expand(a, row), expand(c, row)
    mean, U, L = (jnp.asarray(v, x.dtype) for v in moments)
    return a, c, a**2 * L[None] + c**2, mean[None], U, L[None]


def _split(d: Array, U: Array) -> tuple[Array, Array | None]:
    """`U^T d` `(B, r)`, and the part of d outside U: None where U spans all."""
    y = product(d, U)
    # Where U spans all, d - U U^T d is a rounding error, which a division by a small c would
    # enlarge.
    return y, None if U.shape[0] == U.shape[1] else d - product(y, U.T)


def product(u: Array, v: Array) -> Array:
    """`u v` in full precision; by default accelerators multiply matrices in a lower one."""
    return jnp.matmul(u, v, precision=jax.lax.Precision.HIGHEST)
