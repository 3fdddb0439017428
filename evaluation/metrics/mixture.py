"""The baseline that a score model has to beat: a Gaussian mixture on dequantised pixels.

Levels u in {0, ..., L - 1} become x = (u + U) / L in [0, 1] with U uniform on [0, 1), and a mixture
p is fitted to x. Then, with D values an image,

    bits/dim = -E log2 p(x) / D + log2 L  >=  -E log2 P(u) / D

is an upper bound on what coding the levels under P(u) = L^{-D} E_U p((u + U) / L) costs (Theis, van
den Oord and Bethge 2016, "A Note on the Evaluation of Generative Models", arXiv:1511.01844, section
3.1). It is the quantity that a score model's bits/dim with uniform dequantisation measures.
"""

import copy
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture
from threadpoolctl import threadpool_limits

from evaluation.metrics.errors import mean_and_stderr
from sde_lib import rows

COPIES = 8  # dequantisations of each training image: the noise is free, the images are not
VALUES = 2**20  # of all copies together, beyond which copies are saved; the images are enough then
CHEAP = ("diag", "spherical")
LARGEST_FULL = 1024  # values an image: a covariance matrix costs the cube of it at every step


class Candidate(NamedTuple):
    """One setting of the mixture: components, shape of their covariance, variance added to it.

    `reg` is in squared levels: constant pixels have the variance 1/12 of their dequantisation.
    """

    components: int
    covariance: str
    reg: float


# Components need more added variance the fewer images each one gets.
CANDIDATES = (
    Candidate(1, "full", 0.003),
    Candidate(5, "full", 0.03),
    Candidate(10, "full", 0.1),
    Candidate(20, "tied", 0.003),
    Candidate(50, "diag", 0.003),
    Candidate(75, "diag", 0.03),
    Candidate(100, "diag", 0.1),
)


class BitsPerDim(NamedTuple):
    """Mean over test images in bits per dimension, its standard error, and their number."""

    value: float
    stderr: float
    n: int


@dataclass(frozen=True)
class Mixture:
    """A fitted mixture. `held_out`: bits/dim of every candidate on the held-out images."""

    model: GaussianMixture
    levels: int
    image_shape: tuple[int, ...]
    candidate: Candidate
    held_out: dict[Candidate, float]

    def bits_per_dim(self, images, *, seed: int = 0, draws: int = 4) -> BitsPerDim:
        """-mean log2 p(x) / D + log2 L of integer images (N, ...), in bits per dimension.

        Each image is scored on `draws` dequantisations, whose mean is its value; the standard error
        is the spread of these values over images.

        Raises:
            ValueError: images are not integer levels of this mixture's range and shape.
        """
        check_levels(images, self.levels)
        if np.shape(images)[1:] != self.image_shape:
            raise ValueError(
                f"images have shape {np.shape(images)[1:]}, the mixture was fitted to "
                f"{self.image_shape}: pass images of the training shape"
            )
        rng = np.random.default_rng(seed)
        scores = [bits(self.model, dequantize(images, self.levels, rng)) for _ in range(draws)]
        each = np.mean(scores, axis=0) + np.log2(self.levels)
        return BitsPerDim(*mean_and_stderr(each), len(each))

    def sample(self, n: int, seed: int = 0) -> np.ndarray:
        """n images (n, *image_shape) in [0, 1], on the data's lattice u / (L - 1)."""
        # scikit-learn keeps the seed on the estimator and returns samples in order of component.
        drawn = copy.copy(self.model).set_params(random_state=seed).sample(n)[0]
        drawn = np.random.default_rng(seed).permutation(drawn).reshape(n, *self.image_shape)
        return quantize(drawn, self.levels) / (self.levels - 1)


def fit_mixture(
    train_images, levels: int, *, seed: int = 0, candidates: Sequence[Candidate] = CANDIDATES
) -> Mixture:
    """The candidate that is best on a held-out fifth of the training images, refitted to them all.

    Meant for small images: above `LARGEST_FULL` values an image only candidates with a diagonal or
    spherical covariance take part, and candidates with more components than images never do.
    Deterministic in its arguments.

    Args:
        train_images: (N, ...) integers in [0, levels); the test split has no say here.
        levels: number of grey levels L, 256 for bytes.

    Raises:
        ValueError: images are not integers in [0, levels), or too few or too large for every
            candidate.
    """
    check_levels(train_images, levels)
    images = np.asarray(train_images)
    size, held = images[0].size, len(images) // 5
    usable = [
        c
        for c in candidates
        if c.components <= len(images) - held and (size <= LARGEST_FULL or c.covariance in CHEAP)
    ]
    if held < 1 or not usable:
        raise ValueError(
            f"{len(images)} images of {size} values suit none of {list(candidates)}; a candidate "
            f"needs five images, no more components than images, and above {LARGEST_FULL} "
            f"values a covariance out of {CHEAP}: pass more images or other candidates"
        )
    copies = int(np.clip(VALUES // images.size, 1, COPIES))
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(images))
    kept = dequantize(np.repeat(images[order[held:]], copies, axis=0), levels, rng)
    tested = dequantize(np.repeat(images[order[:held]], copies, axis=0), levels, rng)
    held_out = {
        candidate: float(bits(fit(candidate, kept, levels, seed), tested).mean() + np.log2(levels))
        for candidate in usable
    }
    best = min(held_out, key=held_out.get)
    everything = dequantize(np.repeat(images, copies, axis=0), levels, rng)
    return Mixture(fit(best, everything, levels, seed), levels, images.shape[1:], best, held_out)


def fit(candidate: Candidate, x: np.ndarray, levels: int, seed: int) -> GaussianMixture:
    """Maximum likelihood by EM, started at k-means, on rows x (N, D)."""
    model = GaussianMixture(
        candidate.components,
        covariance_type=candidate.covariance,
        reg_covar=candidate.reg / levels**2,
        max_iter=40,
        random_state=seed,
    )
    # k-means adds its partial sums in the order in which threads finish; and these small products
    # are up to twenty times slower with as many BLAS threads as cores when the machine is shared.
    with threadpool_limits(1), warnings.catch_warnings():
        # Where EM stops short of convergence, the held-out images judge what it has reached.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit(x)


def bits(model: GaussianMixture, x: np.ndarray) -> np.ndarray:
    """-log2 p(x) / D of every row of x (N, D), without the offset log2 L."""
    return -model.score_samples(x) / (x.shape[1] * np.log(2))


def dequantize(images, levels: int, rng: np.random.Generator) -> np.ndarray:
    """Integer images (N, ...) as rows x = (u + U) / L in [0, 1], (N, D), U uniform on [0, 1)."""
    u = rows(np.asarray(images))
    return (u + rng.random(u.shape)) / levels


def quantize(x: np.ndarray, levels: int) -> np.ndarray:
    """The level floor(L x) whose cell x lies in, clipped to 0 ... L - 1: undoes `dequantize`."""
    return np.clip(np.floor(x * levels), 0, levels - 1)


def check_levels(images, levels: int) -> None:
    images = np.asarray(images)
    if images.ndim < 2 or len(images) == 0 or not np.issubdtype(images.dtype, np.integer):
        raise ValueError(
            f"images have shape {images.shape} and dtype {images.dtype}; bits/dim is defined for a "
            f"batch (N, ...) of integers: pass the raw levels 0 ... {levels - 1}"
        )
    if images.min() < 0 or images.max() >= levels:
        raise ValueError(
            f"image levels span [{images.min()}, {images.max()}]; with levels={levels} they run "
            f"from 0 to {levels - 1}: pass the data's own number of levels"
        )
