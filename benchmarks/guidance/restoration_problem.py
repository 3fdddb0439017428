"""Restoration of digits with an exact denoiser: pairs of clean and degraded 8x8 digits.

To make the degraded state mu, the clean digit is averaged over 2x2 pixels, noise of standard
deviation tau is added to these 16 numbers (`low`), and the result is enlarged to 8x8. Let the clean
digit be one of the N training digits `y_i`, all equally likely. With `w_t = x_t - (1 - a) mu`,

    p(i | x_t, mu) ~ exp(-|pool(y_i) - low|^2 / (2 tau^2) - |w_t - a y_i|^2 / (2 c^2)),

and the best denoiser is the mean of the `y_i` under these probabilities. The first term alone,
without x_t, gives the posterior given mu, which perfect samples follow.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import data
from sde_lib.mean_reverting import MeanReverting
from sde_lib.mean_reverting_given import to_w
from sde_lib.prediction import Prediction, prediction_of

LAW = MeanReverting()
END = 0.01
SIDE = 8


class Problem(NamedTuple):
    """Training digits `points` `(N, 64)` in [0, 1], and B examples.

    `clean` and `mu` `(B, 64)` are the clean and the degraded digits; `log_prior` `(B, N)` is the
    log probability of each point given mu.
    """

    points: np.ndarray
    clean: np.ndarray
    mu: np.ndarray
    log_prior: np.ndarray


def digits(split: str) -> np.ndarray:
    """Return the digits of a split, `(N, 64)` in [0, 1], float64."""
    source = data.digits.load(split)
    return source.fetch(np.arange(len(source))).reshape(len(source), -1) / (source.levels - 1.0)


def pool(x: np.ndarray) -> np.ndarray:
    """Return the means over 2x2 pixels: `(B, 64)` to `(B, 16)`."""
    half = SIDE // 2
    return x.reshape(-1, half, 2, half, 2).mean((2, 4)).reshape(-1, half * half)


def enlarge(low: np.ndarray) -> np.ndarray:
    """Repeat each pixel in a block of 2x2: `(B, 16)` to `(B, 64)`."""
    half = SIDE // 2
    return low.reshape(-1, half, half).repeat(2, 1).repeat(2, 2).reshape(-1, SIDE * SIDE)


def make_problem(count: int = 32, copies: int = 16, tau: float = 0.15, seed: int = 0) -> Problem:
    """Draw `count` digits from the points, and repeat each with its mu `copies` times in a row.

    Raises:
        ValueError: tau is not positive. Without noise, mu would determine the digit.
    """
    if not tau > 0.0:
        raise ValueError(f"tau is {tau}; the noise of the degraded digit must be positive.")
    rng = np.random.default_rng(seed)
    points = digits("train")
    clean = points[rng.choice(len(points), count, replace=False)]
    low = pool(clean) + tau * rng.standard_normal((count, 16))
    distance = np.sum((pool(points)[None] - low[:, None]) ** 2, axis=2)
    logits = -0.5 * distance / tau**2
    logits = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
    tile = lambda v: np.repeat(v, copies, axis=0)
    return Problem(points, tile(clean), tile(enlarge(low)), tile(logits))


def predict_fn(problem: Problem, law: MeanReverting = LAW):
    """Return the exact prediction function for x given mu, `(x, t) -> Prediction`."""
    points, mu, log_prior = (
        jnp.asarray(v) for v in (problem.points, problem.mu, problem.log_prior)
    )
    halves = 0.5 * jnp.sum(points**2, axis=1)

    def predict(x, t) -> Prediction:
        a, c = law.coeffs(t)
        w = to_w(law, mu, x, t)
        logits = log_prior + (a / c**2) * (w @ points.T) - (a / c) ** 2 * halves[None]
        x0 = jax.nn.softmax(logits, axis=1) @ points
        found = prediction_of(law, w, t, x0, (w - a * x0) / c)
        return found._replace(velocity=found.velocity + law.ends.rates(t).b * mu)

    return predict


def starts(problem: Problem, law: MeanReverting = LAW, seed: int = 1) -> np.ndarray:
    """Return the starts `mu + std z`, `(B, 64)`."""
    z = np.random.default_rng(seed).standard_normal(problem.mu.shape)
    return problem.mu + law.std * z


def exact_draws(problem: Problem, seed: int = 2) -> np.ndarray:
    """Return one draw of the posterior given mu for each example, `(B, 64)`."""
    rng = np.random.default_rng(seed)
    gumbel = rng.gumbel(size=problem.log_prior.shape)
    return problem.points[np.argmax(problem.log_prior + gumbel, axis=1)]


def energy(problem: Problem, x: np.ndarray, copies: int) -> tuple[float, float]:
    """Return the energy distance between samples and the posterior: mean over mus, standard error.

    The distance is `2 E|X - Y| - E|X - X'| - E|Y - Y'|`, in units of RMS per pixel. The expectation
    over the posterior is summed exactly, and that over samples is a U-statistic, so the distance is
    0 on average for perfect samples.
    """
    points, found = problem.points, []
    for first in range(0, len(x), copies):
        share = np.exp(problem.log_prior[first])
        kept = share > 1e-9
        p, y, own = share[kept], points[kept], x[first : first + copies]
        cross = np.mean(distances(own, y) @ p)
        within = np.sum(distances(own, own)) / (copies * (copies - 1))
        found.append(2 * cross - within - p @ distances(y, y) @ p)
    return float(np.mean(found)), float(np.std(found) / len(found) ** 0.5)


def distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the RMS difference per pixel for every pair, `(len(x), len(y))`."""
    square = np.sum(x**2, 1)[:, None] + np.sum(y**2, 1)[None] - 2.0 * x @ y.T
    return np.sqrt(np.maximum(square, 0.0) / x.shape[1])
