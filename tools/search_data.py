"""Networks known in closed form on which solvers are searched for and judged.

Each is the optimal denoiser of an equal mixture of N(x_i, 0.05^2 I) over 8 x 8 pictures in [-1, 1]
(`benchmarks/sampler_problem.py`). The split is by data, and the starts of every use are other ones:
those of the benchmark's score are `default_rng(0)`, a search's `default_rng([seed + 1, ...])`.
"""

import jax.numpy as jnp
import numpy as np
from jax import Array
from scipy.ndimage import gaussian_filter
from sklearn.datasets import load_digits, load_sample_images
from sklearn.feature_extraction.image import extract_patches_2d

from benchmarks.sampler_problem import LAW, make_problem, predict_fn
from search import Trajectories, trajectories

SPREAD = 0.05
# What a search sees, and the weight of each set. The first digits are those of the benchmark; other
# digits and smooth random fields keep a schedule from fitting one set too closely.
TRAIN = {"digits 0-511": 0.6, "digits 1536-1796": 0.2, "fields": 0.2}
# What it never sees.
HELD_OUT = ("digits 512-1023", "digits 1024-1535", "patches")


def digits() -> np.ndarray:
    return load_digits().data / 8.0 - 1.0


def fields(count: int = 512) -> np.ndarray:
    """Smooth random fields of the spread of the digits, cut to [-1, 1]."""
    noise = np.random.default_rng(1).standard_normal((count, 8, 8))
    smooth = gaussian_filter(noise, sigma=(0.0, 1.0, 1.0), mode="wrap")
    return np.clip(0.7 * smooth / smooth.std(), -1.0, 1.0).reshape(count, 64)


def patches(count: int = 512) -> np.ndarray:
    """Grey 8 x 8 patches of the two photographs that come with scikit-learn, every 4th pixel."""
    grey = [image[::4, ::4].mean(axis=2) / 127.5 - 1.0 for image in load_sample_images().images]
    found = [extract_patches_2d(g, (8, 8), max_patches=count // 2, random_state=0) for g in grey]
    return np.concatenate(found).reshape(-1, 64)


def data_of(name: str) -> np.ndarray:
    """The pictures of a set, `(N, 64)`."""
    if name == "fields":
        return fields()
    if name == "patches":
        return patches()
    first, last = map(int, name.removeprefix("digits ").split("-"))
    return digits()[first : last + 1]


def starts(seed: int, use: int, number: int, count: int) -> Array:
    """Draws of the prior for one set and one use."""
    noise = np.random.default_rng([seed + 1, use, number]).standard_normal((count, 64))
    return jnp.asarray(LAW.t1 * noise)


def sets_of(names, seed: int, use: int, count: int) -> list[Trajectories]:
    """Known trajectories of the sets, `count` of each, from starts that belong to this use."""
    found = []
    for number, name in enumerate(names):
        predict = predict_fn(make_problem(name, data_of(name), SPREAD, starts=1))
        x = starts(seed, use, number, count)
        found.append(trajectories(LAW, predict, x, LAW.t0))
    return found
