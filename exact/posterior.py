"""Posteriors that are known: Gaussian data, and mixtures of Gaussians, measured with noise.

For x0 ~ N(m, C) and `y = A x0 + noise_std n` (Kalman 1960),

    K = C A^T (A C A^T + noise_std^2 I)^{-1},    x0 | y ~ N(m + K (y - A m), C - K A C),

and the same holds for each component of a mixture, whose weight gets the factor
`N(y; A m, A C A^T + noise_std^2 I)`. The posterior is Gaussian, or a mixture, again. Its prediction
function is therefore the exact conditional one, which every guide approximates and against which
guides are tested.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from scipy.special import softmax
from scipy.stats import multivariate_normal

from exact import GaussianMoments
from operators import LinearOperator, dense
from sde_lib import AffinePath, rows
from sde_lib.base import expand
from sde_lib.prediction import PredictFn, prediction_of

# Full precision; by default accelerators multiply matrices in a lower one.
FULL = jax.lax.Precision.HIGHEST


class Mixture(NamedTuple):
    """Data `sum_k weights_k N(means_k, covs_k)`; `(K,)`, `(K, D)`, `(K, D, D)`."""

    weights: np.ndarray
    means: np.ndarray
    covs: np.ndarray


def gaussian_posterior(
    data: GaussianMoments, operator: LinearOperator, y: np.ndarray, noise_std: float
) -> GaussianMoments:
    """The moments of x0 | y for Gaussian data; `gaussian_predict` of them is the exact guide.

    Args:
        data: of rank r; the posterior lies in the same r directions.
        y: one measurement, `shape_out`.

    Computed in float64, without negative variances: for `A U sqrt(L) = P diag(b) Q^T` the
    covariance is the square of `U sqrt(L) (I - Q diag(1 - noise_std / sqrt(b^2 + noise_std^2))
    Q^T)`.
    """
    A, y = dense(operator).astype(np.float64), np.asarray(y, np.float64).reshape(-1)
    root = np.asarray(data.U) * np.sqrt(data.L)
    P, b, Qt = np.linalg.svd(A @ root, full_matrices=False)
    # Directions that are not measured, b = 0, keep their prior for any noise_std.
    total = np.where(b > 0.0, np.sqrt(b**2 + noise_std**2), 1.0)
    mean = data.mean + root @ (Qt.T @ (b / total**2 * (P.T @ (y - A @ data.mean))))
    left = np.where(b > 0.0, noise_std / total, 1.0)
    half = root - root @ Qt.T @ ((1.0 - left)[:, None] * Qt)
    U, s, _ = np.linalg.svd(half, full_matrices=False)
    return GaussianMoments(mean, U, s**2)


def mixture_posterior(
    data: Mixture, operator: LinearOperator, y: np.ndarray, noise_std: float
) -> Mixture:
    """The mixture of x0 | y for mixture data; y is one measurement, and noise_std is positive."""
    A, y = dense(operator).astype(np.float64), np.asarray(y, np.float64).reshape(-1)
    logs, means, covs = [], [], []
    for weight, mean, cov in zip(*data):
        S = A @ cov @ A.T + noise_std**2 * np.eye(len(A))
        K = np.linalg.solve(S, A @ cov).T
        logs.append(np.log(weight) + multivariate_normal.logpdf(y, A @ mean, S))
        means.append(mean + K @ (y - A @ mean))
        covs.append(cov - K @ A @ cov)
    return Mixture(softmax(logs), np.stack(means), np.stack(covs))


def mixture_moments(data: Mixture) -> tuple[np.ndarray, np.ndarray]:
    """Mean `(D,)` and covariance `(D, D)` of a mixture."""
    mean = data.weights @ data.means
    d = data.means - mean
    return mean, np.einsum("k,kij->ij", data.weights, data.covs) + (data.weights * d.T) @ d


def mixture_predict(path: AffinePath, data: Mixture) -> PredictFn:
    """The exact prediction function `(x, t) -> Prediction` for mixture data."""
    L, U = np.linalg.eigh(data.covs)
    logs = np.log(data.weights)

    def predict(x: Array, t: Array):
        flat = rows(x)
        row = flat[:, None]
        a, c = (expand(v, row) for v in path.coeffs(jnp.asarray(t, x.dtype)))
        means, basis, lengths, log = (jnp.asarray(v, x.dtype) for v in (data.means, U, L, logs))
        v = a**2 * lengths[None] + c**2
        d = jnp.einsum("bkd,kde->bke", row - a * means[None], basis, precision=FULL)
        logp = log[None] - 0.5 * jnp.sum(d**2 / v + jnp.log(v), axis=-1)
        share = jax.nn.softmax(logp, axis=-1)
        shift = jnp.einsum("bke,kde->bkd", a * lengths[None] / v * d, basis, precision=FULL)
        x0 = jnp.einsum("bk,bkd->bd", share, means[None] + shift, precision=FULL)
        eps = jnp.einsum("bk,bke,kde->bd", share, c / v * d, basis, precision=FULL)
        return prediction_of(path, x, t, x0.reshape(x.shape), eps.reshape(x.shape))

    return predict
