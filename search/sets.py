"""Networks known in closed form for the search of solvers and for its evaluation.

Each network is the optimal denoiser of an equal mixture of N(x_i, s^2 I) over points in [-1, 1]
(`search/problem.py`). Training and held-out sets have different data, and every use has its own
starts: `default_rng(0)` for the benchmark's score, `default_rng([seed + 1, ...])` for a search.
"""

from functools import partial

import jax.numpy as jnp
import numpy as np
from jax import Array
from scipy.ndimage import gaussian_filter, zoom
from sklearn.datasets import load_digits, load_sample_images
from sklearn.feature_extraction.image import extract_patches_2d

from search import Trajectories, trajectories
from search.problem import LAW, Problem, make_problem, predict_fn

# The sets of a search and their weights. The first digits are those of the benchmark. Data of other
# kinds, dimensions and spreads keep a schedule from fitting one set too closely.
TRAIN = {
    "digits 0-511": 0.3,
    "digits 1536-1796": 0.15,
    "large digits": 0.15,
    "fields": 0.15,
    "binary": 0.15,
    "points": 0.1,
}
# The sets that a search never uses.
HELD_OUT = ("digits 512-1023", "digits 1024-1535", "patches", "large patches")
# s of the mixture, 0.05 where a set is not named.
SPREADS = {"binary": 0.02, "points": 0.1}


def digits() -> np.ndarray:
    return load_digits().data / 8.0 - 1.0


def fields(count: int = 512, blur: float = 1.0, seed: int = 1) -> np.ndarray:
    """Smooth random fields `(count, 64)` with the standard deviation 0.7, clipped to [-1, 1]."""
    noise = np.random.default_rng(seed).standard_normal((count, 8, 8))
    smooth = gaussian_filter(noise, sigma=(0.0, blur, blur), mode="wrap")
    return np.clip(0.7 * smooth / smooth.std(), -1.0, 1.0).reshape(count, 64)


def binary() -> np.ndarray:
    """The signs of rougher fields."""
    return np.sign(fields(256, blur=0.7, seed=2))


def points() -> np.ndarray:
    """A few points of few dimensions."""
    return np.random.default_rng(3).uniform(-1.0, 1.0, (32, 6))


def large_digits() -> np.ndarray:
    """16 x 16 pixels."""
    return zoom(digits()[600:856].reshape(-1, 8, 8), (1, 2, 2), order=1).reshape(-1, 256)


def patches(count: int = 512, side: int = 8) -> np.ndarray:
    """Grey patches of the two photographs that come with scikit-learn, every 4th pixel."""
    grey = [image[::4, ::4].mean(axis=2) / 127.5 - 1.0 for image in load_sample_images().images]
    cut = lambda g: extract_patches_2d(g, (side, side), max_patches=count // 2, random_state=0)
    return np.concatenate([cut(g) for g in grey]).reshape(count, -1)


MADE = {
    "fields": fields,
    "binary": binary,
    "points": points,
    "large digits": large_digits,
    "patches": patches,
    "large patches": partial(patches, side=16),
}


def data_of(name: str) -> np.ndarray:
    """The pictures of a set, `(N, D)`."""
    if name in MADE:
        return MADE[name]()
    first, last = map(int, name.removeprefix("digits ").split("-"))
    return digits()[first : last + 1]


def problem_of(name: str) -> Problem:
    return make_problem(name, data_of(name), SPREADS.get(name, 0.05), starts=1)


def starts(seed: int, use: int, number: int, shape: tuple[int, int]) -> Array:
    """Draws of the prior for one set and one use, `(count, D)`."""
    noise = np.random.default_rng([seed + 1, use, number]).standard_normal(shape)
    return jnp.asarray(LAW.t1 * noise)


def sets_of(names, seed: int, use: int, count: int) -> list[Trajectories]:
    """Known trajectories of the sets, `count` of each, from starts that belong to this use."""
    found = []
    for number, name in enumerate(names):
        problem = problem_of(name)
        x = starts(seed, use, number, (count, problem.x.shape[1]))
        found.append(trajectories(LAW, predict_fn(problem), x, LAW.t0))
    return found
