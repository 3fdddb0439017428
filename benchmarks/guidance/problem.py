"""Inverse problems whose posterior is known: data, operators, measurements and scores.

The data are correlated Gaussians in 2, 16 and 64 dimensions, the last with the moments of the
digits, and a mixture of ten Gaussians fitted to digits of 4 x 4 pixels. The law is EDM from 80 to
0.002. The starts are draws of the posterior with noise of 80. So the errors are those of the guide
and the sampler, without the error of order 1 / 80 of a start that is independent of the data.
"""

from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.datasets import load_digits
from sklearn.mixture import GaussianMixture

from exact import Mixture, mixture_moments, mixture_posterior, mixture_predict
from operators import LinearOperator, blur, dense, downsample, mask, matrix
from sde_lib import EDM

LAW = EDM(t0=0.002, t1=80.0)
NOISE = 0.1
SAMPLES = 512
# Added to every variance of the digits, because three of their pixels never change.
LEAST = 1e-3


class Problem(NamedTuple):
    """A measurement `y` `(m,)` of `data` by `A` `(m, D)`, with the moments of x0 | y.

    `mean` `(D,)` and `cov` `(D, D)` are those of the posterior. `data_std` is the root of the mean
    variance of the data; `starts` `(SAMPLES, D)` are states at noise level 80.
    """

    name: str
    operator: LinearOperator
    A: np.ndarray
    y: np.ndarray
    data: Mixture
    mean: np.ndarray
    cov: np.ndarray
    data_std: float
    starts: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        return self.operator.shape_in

    @property
    def gaussian(self) -> bool:
        return len(self.data.weights) == 1


def problems() -> Iterator[Problem]:
    """Yield all problems, each kind of data under a few operators."""
    rng = np.random.default_rng(0)
    plane = gaussian(np.array([0.5, -0.3]), np.array([[1.0, 0.8], [0.8, 0.9]]))
    yield make("Gaussian 2", matrix((2,), np.array([[1.0, -0.5]])), plane)
    root = rng.standard_normal((16, 16)) * np.geomspace(1.0, 0.05, 16)
    image = gaussian(rng.standard_normal(16), root @ root.T / 8.0)
    for operator in operators((4, 4, 1), rng, blurred=False)[:2]:
        yield make("Gaussian 16", operator, image)
    digits = load_digits().images[..., None] / 8.0 - 1.0
    flat = digits.reshape(-1, 64)
    cov = np.cov(flat.T, bias=True) + LEAST * np.eye(64)
    for operator in operators((8, 8, 1), rng, blurred=True):
        yield make("digits 64", operator, gaussian(flat.mean(0), cov))
    small = digits.reshape(-1, 4, 2, 4, 2).mean((2, 4)).reshape(-1, 16)
    fitted = GaussianMixture(10, random_state=0, reg_covar=LEAST).fit(small)
    mixture = Mixture(fitted.weights_, fitted.means_, fitted.covariances_)
    for operator in operators((4, 4, 1), rng, blurred=False)[1:]:
        yield make("mixture 16", operator, mixture)


def gaussian(mean: np.ndarray, cov: np.ndarray) -> Mixture:
    return Mixture(np.ones(1), mean[None], cov[None])


def operators(shape, rng: np.random.Generator, blurred: bool) -> list[LinearOperator]:
    size = int(np.prod(shape))
    some = matrix(shape, rng.standard_normal((size // 4, size)) / np.sqrt(size))
    found = [some, mask(shape, rng.random(shape[:2]) < 0.4), downsample(shape, 2)]
    return [*found, blur(shape, 1.0)] if blurred else found


def make(name: str, operator: LinearOperator, data: Mixture) -> Problem:
    """Return the problem of one measured draw of the data, with its exact posterior."""
    rng = np.random.default_rng(1)
    A = dense(operator)
    y = A @ draw(data, rng, 1)[0] + NOISE * rng.standard_normal(len(A))
    known = mixture_posterior(data, operator, y, NOISE)
    cov = mixture_moments(data)[1]
    starts = draw(known, rng, SAMPLES)
    starts = starts + LAW.t1 * rng.standard_normal(starts.shape)
    size = float(np.sqrt(np.trace(cov) / len(cov)))
    return Problem(name, operator, A, y, data, *mixture_moments(known), size, starts)


def draw(data: Mixture, rng: np.random.Generator, n: int) -> np.ndarray:
    which = rng.choice(len(data.weights), n, p=data.weights)
    roots = np.linalg.cholesky(data.covs)[which]
    noise = rng.standard_normal((n, data.means.shape[1]))
    return data.means[which] + np.einsum("nij,nj->ni", roots, noise)


def predict_fn(problem: Problem, count=None):
    """Return the exact prediction function; `count()` is called at every evaluation at run time."""
    exact = mixture_predict(LAW, problem.data)

    def predict(x, t):
        if count is not None:
            jax.debug.callback(count)
        return exact(x, jnp.asarray(t))

    return predict


class Score(NamedTuple):
    """Errors of samples against the posterior N(m*, C*).

    `mean` is the distance of the means in posterior standard deviations, `|m - m*| / sqrt(tr C*)`;
    `cov` is `|C - C*| / |C*|`. `mean_se` and `cov_se` are the errors that the same number of
    perfect samples would have.
    """

    mean: float
    cov: float
    mean_se: float
    cov_se: float


def starts_of(problem: Problem, affine: bool) -> np.ndarray:
    """Return the starts of a run: draws, or for an affine sampler zero and the unit vectors.

    The latter, `(D + 1, D)`, are scaled by t1.
    """
    if not affine:
        return problem.starts
    D = len(problem.mean)
    return LAW.t1 * np.concatenate([np.zeros((1, D)), np.eye(D)])


def score(problem: Problem, ends: np.ndarray, affine: bool) -> Score:
    """Return the score of `ends`, the results of a run from `starts_of(problem, affine)`.

    For an affine run the moments follow from the map, so the score has no sampling error.
    """
    mean, cov = problem.mean, problem.cov
    size, norm = np.trace(cov), np.linalg.norm(cov)
    if affine:
        gain = (ends[1:] - ends[:1]) / LAW.t1
        found = ends[0] + mean @ gain
        spread = gain.T @ (cov + LAW.t1**2 * np.eye(len(mean))) @ gain
        errors = (0.0, 0.0)
    else:
        n = len(ends)
        found, spread = ends.mean(0), np.cov(ends.T, ddof=1)
        errors = (n**-0.5, np.sqrt((size**2 + norm**2) / n) / norm)
    off = np.linalg.norm(found - mean) / np.sqrt(size)
    return Score(float(off), float(np.linalg.norm(spread - cov) / norm), *map(float, errors))
