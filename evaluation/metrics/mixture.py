"""The baseline for a score model: a Gaussian mixture on dequantised pixels.

Levels u in {0, ..., L - 1} become x = (u + U) / L in [0, 1] with U uniform on [0, 1), and a mixture
p is fitted to x. With D values an image,

    bits/dim = -E log2 p(x) / D + log2 L  >=  -E log2 P(u) / D

is an upper bound on the cost of coding the levels under P(u) = L^{-D} E_U p((u + U) / L) (Theis,
van den Oord and Bethge 2016, "A Note on the Evaluation of Generative Models", arXiv:1511.01844,
section 3.1). The bits/dim of a score model with uniform dequantisation is the same quantity.
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

COPIES = 8  # dequantisations of each training image: fresh noise costs nothing, images are few
VALUES = 2**20  # of all copies together at most: a larger data set needs fewer copies
CHEAP = ("diag", "spherical")
LARGEST_FULL = 1024  # values an image: each EM step with full covariances costs their cube


class Candidate(NamedTuple):
    """One setting of the mixture: components, form of their covariance, variance added to it.

    `reg` is in squared levels; for comparison, the dequantisation gives constant pixels a variance
    of 1/12.
    """

    components: int
    covariance: str
    reg: float


# The fewer images each component gets, the more added variance it needs.
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

        The value of an image is the mean over `draws` dequantisations. The standard error comes
        from the spread of these values over images.

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
        """Draw n images (n, *image_shape) in [0, 1], on the data's lattice u / (L - 1)."""
        # scikit-learn keeps the seed on the estimator and returns samples sorted by component.
        drawn = copy.copy(self.model).set_params(random_state=seed).sample(n)[0]
        drawn = np.random.default_rng(seed).permutation(drawn).reshape(n, *self.image_shape)
        return quantize(drawn, self.levels) / (self.levels - 1)


def fit_mixture(
    train_images, levels: int, *, seed: int = 0, candidates: Sequence[Candidate] = CANDIDATES
) -> Mixture:
    """Fit the candidates, choose the best on a held-out fifth, and refit it to all images.

    The baseline is meant for small images: above `LARGEST_FULL` values an image only candidates
    with a diagonal or spherical covariance are fitted. Candidates with more components than images
    are left out. The result is a deterministic function of the arguments.

    Args:
        train_images: (N, ...) integers in [0, levels), of the training split only.
        levels: number of grey levels L, 256 for bytes.

    Raises:
        ValueError: images are not integers in [0, levels), or too few or too large for every
            candidate.
    """
    check_levels(train_images, levels)
    images = np.asarray(train_images)
    usable, held = suited(len(images), images[0].size, candidates), held_of(len(images))
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


def held_of(n: int) -> int:
    """How many of n images are held out to choose by."""
    return n // 5


def suited(n: int, size: int, candidates: Sequence[Candidate] = CANDIDATES) -> list[Candidate]:
    """The candidates that n images of `size` values suit.

    Raises:
        ValueError: where there is none.
    """
    held = held_of(n)
    found = [
        c
        for c in candidates
        if c.components <= n - held and (size <= LARGEST_FULL or c.covariance in CHEAP)
    ]
    if held < 1 or not found:
        fewest = min((c.components for c in candidates), default=0)
        raise ValueError(
            f"{n} training images of {size} values suit none of {len(candidates)} mixtures; one "
            f"takes five images, four fifths of them as many as it has components, {fewest} or "
            f"more, and above {LARGEST_FULL} values a covariance out of {CHEAP}: take more images, "
            "or eval.mixture=False."
        )
    return found


def fit(candidate: Candidate, x: np.ndarray, levels: int, seed: int) -> GaussianMixture:
    """Fit one candidate to rows x (N, D) by maximum likelihood (EM, started at k-means)."""
    model = GaussianMixture(
        candidate.components,
        covariance_type=candidate.covariance,
        reg_covar=candidate.reg / levels**2,
        max_iter=40,
        random_state=seed,
    )
    # One thread: k-means adds partial sums in the order in which threads finish, and on a shared
    # machine these small products are up to 20 times slower with one BLAS thread per core.
    with threadpool_limits(1), warnings.catch_warnings():
        # EM may stop before it converges; the held-out images then judge the fit it has reached.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit(x)


def bits(model: GaussianMixture, x: np.ndarray) -> np.ndarray:
    """-log2 p(x) / D of every row of x (N, D), without the offset log2 L."""
    return -model.score_samples(x) / (x.shape[1] * np.log(2))


def dequantize(images, levels: int, rng: np.random.Generator) -> np.ndarray:
    """Return integer images (N, ...) as rows x = (u + U) / L, (N, D), U uniform on [0, 1)."""
    u = rows(np.asarray(images))
    return (u + rng.random(u.shape)) / levels


def quantize(x: np.ndarray, levels: int) -> np.ndarray:
    """The level floor(L x), clipped to 0 ... L - 1: the inverse of `dequantize`."""
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
