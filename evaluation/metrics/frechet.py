"""The Frechet distance between the Gaussians fitted to two sets of features.

    d^2 = |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^{1/2})

This is the squared 2-Wasserstein distance of N(m1, C1) and N(m2, C2) (Dowson and Landau 1982). With
Inception features it is the FID of Heusel et al. 2017, "GANs Trained by a Two Time-Scale Update
Rule Converge to a Local Nash Equilibrium", arXiv:1706.08500.

The estimate is biased, mostly upwards, by an amount that falls with the number of samples and
depends on the model (Binkowski et al. 2018, arXiv:1801.01401). Compare only values of equal n, and
report the distance between two real sets of the same n beside each value.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from scipy.linalg import eigh, svdvals
from threadpoolctl import ThreadpoolController

from evaluation.metrics.errors import jackknife
from evaluation.spaces.features import Features

# The threads of a decomposition synchronise at every column, and wait there if another process
# holds a core: two threads took 10 times as long as one on two busy cores, 0.7 times on idle ones.
BLAS = ThreadpoolController()


class Moments(NamedTuple):
    """Count, mean and scatter of features, in float64; sets of any size can be streamed into them.

    `mean` is (d,). `scatter` is the sum of (x - mean)(x - mean)^T, (d, d): centred sums merge
    without the cancellation of sums of squares. `space` is the id of the feature space. `n` is None
    for a statistics file that does not state it: `scatter` is then the covariance itself, and the
    moments cannot be merged.
    """

    space: str
    n: int | None
    mean: np.ndarray
    scatter: np.ndarray

    @classmethod
    def of(cls, features: Features) -> "Moments":
        """Return the moments of features (N, d), N >= 1.

        Raises:
            ValueError: the features are not a non-empty matrix, or hold a NaN or infinity.
        """
        x = finite_rows(features)
        mean = x.mean(axis=0)
        centred = x - mean
        return cls(features.space, len(x), mean, centred.T @ centred)

    @property
    def cov(self) -> np.ndarray:
        """Unbiased covariance, scatter / (n - 1); the covariance of the file if n is None.

        Raises:
            ValueError: n < 2.
        """
        if self.n is None:
            return self.scatter
        if self.n < 2:
            raise ValueError(
                f"the moments hold n = {self.n} example; a covariance needs at least 2: "
                "merge more batches first"
            )
        return self.scatter / (self.n - 1)


def merge(a: Moments, b: Moments) -> Moments:
    """Return the moments of the union (Chan, Golub and LeVeque 1983, eq. 1.5 in matrix form).

    Raises:
        ValueError: the two live in different feature spaces or dimensions, or one has unknown n.
    """
    check_same_space(a, b)
    if a.n is None or b.n is None:
        raise ValueError(
            "moments whose n is None, of a file that does not tell its number of examples, have "
            "no weight in a union: merge moments of features"
        )
    n, delta = a.n + b.n, b.mean - a.mean
    scatter = a.scatter + b.scatter + np.outer(delta, delta) * (a.n * b.n / n)
    return Moments(a.space, n, a.mean + delta * (b.n / n), scatter)


def finite_rows(features: Features) -> np.ndarray:
    """Return the values (N, d) in float64, after the checks that `Moments.of` documents."""
    x = np.asarray(features.values, np.float64)
    if x.ndim != 2 or len(x) == 0:
        raise ValueError(
            f"features have shape {x.shape}; features need (N, d) with N >= 1: "
            "flatten them, and skip empty batches"
        )
    if not np.isfinite(x).all():
        raise ValueError(
            f"{int((~np.isfinite(x)).any(axis=1).sum())} of {len(x)} feature rows are not "
            "finite; features must be finite: look for diverged samples"
        )
    return x


def frechet_distance(a: Moments, b: Moments) -> float:
    """|m1 - m2|^2 + tr C1 + tr C2 - 2 tr (C1 C2)^{1/2}, a squared distance, >= 0.

    The last trace is the sum of square roots of the eigenvalues of C1^{1/2} C2 C1^{1/2}, which are
    the singular values of C1^{1/2} C2^{1/2}. Taking the singular values keeps directions without
    variance (the black corners of a digit) at rounding error instead of at its square root.

    Raises:
        ValueError: feature spaces or dimensions differ, or a set has fewer than two examples.
    """
    check_same_space(a, b)
    return distance_to(b)(a)


def distance_to(reference: Moments) -> Callable[[Moments], float]:
    """`a -> frechet_distance(a, reference)`; the square root of the reference is taken once."""
    with BLAS.limit(limits=1):
        root = sqrt_psd(reference.cov)
    trace = np.trace(reference.cov)

    def distance(a: Moments) -> float:
        check_same_space(a, reference)
        gap, cov = a.mean - reference.mean, a.cov
        with BLAS.limit(limits=1):
            cross = svdvals(sqrt_psd(cov) @ root).sum()
        return max(float(gap @ gap + np.trace(cov) + trace - 2 * cross), 0.0)

    return distance


def frechet_with_stderr(blocks: Sequence[Moments], reference: Moments) -> tuple[float, float]:
    """Distance of the union of all blocks to a fixed reference, and its standard error.

    The error is a jackknife that leaves one of the equal blocks out. It estimates the spread over
    fresh sets of samples; the spread of the reference and the upward bias are not in it.

    Raises:
        ValueError: fewer than two blocks, or blocks of different sizes.
    """
    sizes = sorted({block.n or 0 for block in blocks})
    if len(blocks) < 2 or len(sizes) > 1:
        raise ValueError(
            f"{len(blocks)} blocks of sizes {sizes} were given; the jackknife needs at least two "
            "of one size: split the samples evenly"
        )
    distance = distance_to(reference)
    left_out = [distance(merge_all([*blocks[:j], *blocks[j + 1 :]])) for j in range(len(blocks))]
    return distance(merge_all(blocks)), jackknife(left_out)


def merge_all(blocks: Sequence[Moments]) -> Moments:
    """Moments of the union of one or more blocks."""
    total, *rest = blocks
    for block in rest:
        total = merge(total, block)
    return total


def sqrt_psd(matrix: np.ndarray) -> np.ndarray:
    """Symmetric square root of a positive semi-definite matrix (d, d)."""
    values, vectors = eigh(matrix)
    # Rounding puts the zero eigenvalues of a singular covariance on either side of zero.
    return (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T


def check_same_space(a: Moments, b: Moments) -> None:
    if a.space != b.space or a.mean.shape != b.mean.shape:
        raise ValueError(
            f"moments of {a.space!r} in {a.mean.size} dimensions meet moments of {b.space!r} in "
            f"{b.mean.size}; features of different spaces do not compare: extract both sets with "
            "one feature space"
        )
