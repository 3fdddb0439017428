"""How well data stay apart under noise: the property of data on which kinetic energy depends.

Shaul et al. 2023 (arXiv 2306.06626), section 3. With `sigma = tan(theta)` the noise level of
`x = x0 + sigma z`, in units of the root mean square of the data, and D dimensions,

    lam(s) = E |E[x0 | x]|^2 / D,   s = 1 / sigma        (the data separation function, in [0, 1])
    gamma(theta) = 1 - (1 - lam) / sin(theta)^2,   1 - lam = E |x0 - E[x0 | x]|^2 / D

gamma is the share of the kinetic energy of a turn from data to noise that the marginal field has.
It is 1 where x determines x0, and 0 for standard normal data. theta is the angle from the data axis
(tan(theta) = c / a); the angle of the paper is `pi / 2 - theta`. Only `E |x0|^2 / D = 1` is
assumed, so the data are scaled and not centred.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from exact.gaussian import GaussianMoments, moments

BLOCK = 2**23  # pairs of a draw and a point that are held at a time


class Separation(NamedTuple):
    """`theta`, `gamma` and its standard error, each `(M,)`, theta rising from 0 to pi / 2; `scale`,
    the root mean square of the data, in whose units theta is."""

    theta: np.ndarray
    gamma: np.ndarray
    stderr: np.ndarray
    scale: float


def gaussian_gamma(theta: np.ndarray, L: np.ndarray, dims: int | None = None) -> np.ndarray:
    """gamma of Gaussian data whose covariance has the eigenvalues L `(r,)`, mean square 1.

    `1 - sum_k L_k / (L_k cos^2 + sin^2) / dims`: regular at both ends, where it is
    `1 - r / dims` (theta = 0, no noise) and `|mean|^2 / dims` (theta = pi / 2). The separation
    function is `mean_k s^2 L_k^2 / (1 + s^2 L_k)`, to which the mean adds `|mean|^2 / dims`.

    Args:
        dims: D, if some of the D eigenvalues are zero and left out.
    """
    L = np.asarray(L, np.float64)
    L = L[L > 0.0]
    theta = np.asarray(theta, np.float64)[..., None]
    terms = L / (L * np.cos(theta) ** 2 + np.sin(theta) ** 2)
    return 1.0 - terms.sum(-1) / (dims or len(L))


def estimate(data: np.ndarray, nodes: int = 64, draws: int = 10_000, seed: int = 0) -> Separation:
    """gamma of a finite data set `(n, ...)`, by the exact posterior mean over its points.

    The error of denoising is averaged over `draws` pairs of a point and a noise, the same ones for
    all theta. (An average of `|E[x0 | x]|^2` would have its statistical error divided by sin^2.)
    The control variate is the error of the best linear denoiser, whose mean is known from the
    eigenvalues. At large noise the two errors are nearly equal, so gamma, which is small there,
    keeps its digits.

    Nodes are dense at both ends. The ends are exact: gamma is 1 without noise, and `|mean|^2 / D`
    for pure noise. Cost: `nodes n draws D` products, in blocks.

    Raises:
        ValueError: for fewer than 2 examples, draws or nodes, or data that are all zero.
    """
    points = np.asarray(data, np.float64).reshape(len(data), int(np.prod(np.shape(data)[1:])))
    scale = float(np.sqrt(np.mean(points**2))) if len(points) else 0.0
    if len(points) < 2 or not scale > 0.0:
        raise ValueError(
            f"The data have {len(points)} examples and a root mean square of {scale}; separation "
            "is of 2 examples or more that are not all zero: give more data."
        )
    if draws < 2:
        raise ValueError(f"draws is {draws}; an average with an error needs 2 or more.")
    if nodes < 2:
        raise ValueError(f"nodes is {nodes}; between no noise and all there must be 2 or more.")
    points = points / scale
    model = moments(points)
    theta = np.pi / 4 * (1.0 - np.cos(np.pi * np.arange(1, nodes) / nodes))
    own, linear = denoising_errors(points, model, theta, draws, seed)
    known = 1.0 - gaussian_gamma(theta, model.L, points.shape[1])
    centred = linear - linear.mean(1, keepdims=True)
    slope = np.mean(own * centred, axis=1) / np.maximum(np.mean(centred**2, axis=1), 1e-300)
    rest = own - slope[:, None] * (linear - known[:, None])
    ends = np.array([1.0, np.mean(model.mean**2)])
    return Separation(
        np.concatenate([[0.0], theta, [np.pi / 2]]),
        np.concatenate([ends[:1], 1.0 - rest.mean(1), ends[1:]]),
        np.concatenate([[0.0], rest.std(1) / draws**0.5, [0.0]]),
        scale,
    )


def denoising_errors(
    points: np.ndarray, model: GaussianMoments, theta: np.ndarray, draws: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """`|x0 - denoised|^2 / (D sin^2)`, `(M, draws)`, of the posterior mean and of the linear
    denoiser.

    Every point is drawn equally often, up to one.
    """
    rng = np.random.default_rng(seed)
    n, dims = points.shape
    which = np.concatenate([rng.permutation(n) for _ in range(-(-draws // n))])[:draws]
    size = max(1, min(draws, BLOCK // n))
    own, linear = [], []
    for first in range(0, draws, size):
        x0 = points[which[first : first + size]]
        z = rng.standard_normal(x0.shape)
        own.append(np.asarray(posterior_errors(points, x0, z, theta), np.float64))
        y, w = (x0 - model.mean) @ model.U, z @ model.U
        linear.append([linear_errors(y, w, model.L, angle) for angle in theta])
    own, linear = (np.concatenate(parts, axis=1) for parts in (own, linear))
    return own / dims, linear / dims


@jax.jit
def posterior_errors(points: Array, x0: Array, z: Array, theta: Array) -> Array:
    """`|x0 - E[x0 | x]|^2 / sin^2` `(M, B)`, for `x = x0 + tan(theta) z`; `x0`, `z` `(B, D)`."""
    # Distances from x0 instead of x: the point x0 itself then has the logit 0 at any noise level.
    cross = z @ points.T - jnp.sum(z * x0, axis=1, keepdims=True)
    half = 0.5 * jnp.sum(points**2, axis=1)[None] + 0.5 * jnp.sum(x0**2, axis=1, keepdims=True)
    half = half - x0 @ points.T

    def at(angle):
        sigma = jnp.tan(angle)
        share = jax.nn.softmax((cross - half / sigma) / sigma, axis=1)
        return jnp.sum((share @ points - x0) ** 2, axis=1) / jnp.sin(angle) ** 2

    return jax.lax.map(at, theta)


def linear_errors(y: np.ndarray, w: np.ndarray, L: np.ndarray, theta: float) -> np.ndarray:
    """`|x0 - m - U diag(L / (L + sigma^2)) U^T (x - m)|^2 / sin^2` `(B,)`, with `y = U^T (x0 - m)`
    and `w = U^T z` `(B, r)`; tangent and sine cancelled by hand."""
    sin, cos = np.sin(theta), np.cos(theta)
    return np.sum(((sin * y - L * cos * w) / (L * cos**2 + sin**2)) ** 2, axis=1)
