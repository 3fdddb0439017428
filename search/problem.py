"""A sampling problem with known trajectories: data, exact network, reference and score.

The data are an equal mixture of N(x_i, s^2 I) over N points, noised as `x_t = x_0 + sigma z`. With
`v = s^2 + sigma^2` the optimal denoiser has the closed form

    D(x, sigma) = m + s^2 / v (x - m),   m = sum_i softmax_i((x . x_i - |x_i|^2 / 2) / v) x_i,

and the flow ODE `dx / dlog sigma = x - D` is solved once, to rounding, from fixed starts.
"""

import hashlib
import time
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.integrate import solve_ivp
from scipy.special import softmax
from sklearn.datasets import load_digits

from sde_lib import EDM, expand
from sde_lib.prediction import Prediction
from whole_files import put_arrays

LAW = EDM(t0=0.002, t1=80.0)
STARTS = 64
TOLERANCE = 1e-11


class Problem(NamedTuple):
    """Data `x` `(N, D)`, the mixture's `s`, and `starts` `(64, D)` at sigma = 80."""

    name: str
    x: np.ndarray
    s: float
    starts: np.ndarray


class Reference(NamedTuple):
    """The denoised `ends` `(64, D)`, and the `seconds` that their solve took."""

    ends: np.ndarray
    seconds: float


def make_problem(name: str, x: np.ndarray, s: float = 0.05, starts: int = STARTS) -> Problem:
    """The problem of data x `(N, D)`, with starts drawn from a fixed seed.

    Raises:
        ValueError: for data that are no finite table `(N, D)`, or an s that is not positive.
    """
    x = np.asarray(x, np.float64)
    if x.ndim != 2 or not np.all(np.isfinite(x)):
        raise ValueError(f"{name} has shape {x.shape}; give finite x of shape (N, D).")
    if not s > 0.0:
        raise ValueError(f"s is {s}; the mixture's standard deviation must be positive.")
    noise = np.random.default_rng(0).standard_normal((starts, x.shape[1]))
    return Problem(name, x, float(s), LAW.t1 * noise)


def load_problem(data: str) -> Problem:
    """The first 512 scikit-learn digits for "digits", else `x` and `s` of an npz file."""
    if data == "digits":
        return make_problem("digits", load_digits().data[:512] / 8.0 - 1.0)
    with np.load(data) as arrays:
        s = float(arrays["s"]) if "s" in arrays else 0.05
        return make_problem(Path(data).stem, arrays["x"], s)


def denoise(problem: Problem, x: np.ndarray, sigma: float) -> np.ndarray:
    """`D(x, sigma)` for `x` `(B, D)` in NumPy, for the reference and for other libraries."""
    v = problem.s**2 + sigma**2
    share = softmax((x @ problem.x.T - 0.5 * np.sum(problem.x**2, axis=1)) / v, axis=1)
    mean = share @ problem.x
    return mean + problem.s**2 / v * (x - mean)


def predict_fn(problem: Problem, count=None):
    """`denoise` as a `PredictFn`; `count()` is called at every evaluation that is executed."""
    points, half = jnp.asarray(problem.x), jnp.asarray(0.5 * np.sum(problem.x**2, axis=1))

    def predict(x, t):
        if count is not None:
            jax.debug.callback(count)
        sigma = expand(jnp.asarray(t), x)
        v = problem.s**2 + sigma**2
        mean = jax.nn.softmax((x @ points.T - half[None]) / v, axis=1) @ points
        gain = problem.s**2 / v
        x0 = mean + gain * (x - mean)
        # (x - mean) / v keeps its digits where x and x0 are nearly equal.
        eps = (x - mean) * (sigma / v)
        return Prediction(x0=x0, eps=eps, score=-(x - mean) / v, velocity=eps)

    return predict


def solve(problem: Problem, tolerance: float = TOLERANCE) -> np.ndarray:
    """End points `(B, D)` of the flow ODE at sigma = 0.002, by Dormand-Prince of order 8.

    The variable is `y = x / sqrt(1 + sigma^2)`, which stays of order one, over log sigma:
    `dy / dlog sigma = (x - D) / sqrt(1 + sigma^2) - y sigma^2 / (1 + sigma^2)`.
    """
    shape = problem.starts.shape

    def slope(u, y):
        sigma2 = np.exp(2.0 * u)
        scale = np.sqrt(1.0 + sigma2)
        y = y.reshape(shape)
        x = scale * y
        rate = (x - denoise(problem, x, np.exp(u))) / scale - y * sigma2 / (1.0 + sigma2)
        return rate.ravel()

    span = np.log(LAW.t1), np.log(LAW.t0)
    first = problem.starts / np.sqrt(1.0 + LAW.t1**2)
    found = solve_ivp(slope, span, first.ravel(), "DOP853", rtol=tolerance, atol=tolerance)
    if not found.success:
        raise RuntimeError(f"The reference was not reached: {found.message}")
    return np.sqrt(1.0 + LAW.t0**2) * found.y[:, -1].reshape(shape)


def reference(problem: Problem, folder: Path | None, tolerance: float = TOLERANCE) -> Reference:
    """The end points, denoised at sigma = 0.002, from the cache in `folder` if it has them."""
    key = hashlib.sha256()
    for array in (problem.x, problem.starts, np.array([problem.s, tolerance, LAW.t0, LAW.t1])):
        key.update(np.ascontiguousarray(array).tobytes())
        key.update(str(array.shape).encode())
    path = None if folder is None else Path(folder) / f"flow_{key.hexdigest()[:16]}.npz"
    if path is not None and path.exists():
        with np.load(path) as arrays:
            return Reference(arrays["ends"], float(arrays["seconds"]))
    begin = time.perf_counter()
    ends = denoise(problem, solve(problem, tolerance), LAW.t0)
    made = Reference(ends, time.perf_counter() - begin)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        put_arrays(path, ends=made.ends, seconds=made.seconds)
    return made


def score(result: np.ndarray, ends: np.ndarray) -> float:
    """Median over starts of the RMS difference per pixel."""
    difference = np.asarray(result, np.float64) - ends
    return float(np.median(np.sqrt(np.mean(difference**2, axis=1))))
