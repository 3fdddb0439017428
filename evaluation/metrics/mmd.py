"""Maximum mean discrepancy: an unbiased distance of two sets of features, with a standard error.

    MMD^2 = E k(x, x') + E k(y, y') - 2 E k(x, y)

Gretton et al. 2012, "A Kernel Two-Sample Test", JMLR 13. With the cubic kernel it is the kernel
inception distance of Binkowski et al. 2018, "Demystifying MMD GANs", arXiv:1801.01401. Because the
estimate is unbiased, values of different sample sizes may be compared, unlike Frechet distances,
and the estimate is below zero about half of the time when the two laws are equal.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy.spatial.distance import pdist
from sklearn.metrics.pairwise import polynomial_kernel, rbf_kernel

from evaluation.metrics.errors import jackknife
from evaluation.spaces.features import Features

BLOCK = 1024  # 8 MiB of kernel values at a time


class MMD(NamedTuple):
    """Squared MMD, its standard error, the kernel and bandwidth used, and the set sizes n, m."""

    value: float
    stderr: float
    kernel: str
    bandwidth: float | None
    n: int
    m: int


def kid(x: Features, y: Features, *, block: int = BLOCK) -> MMD:
    """Squared MMD with k(x, y) = (x . y / d + 1)^3, the KID of Binkowski et al. 2018, section 4.

    All examples enter at once; the customary average over subsets of 1000 has the same mean.

    Args:
        x, y: features (n, d) and (m, d) of one space, n, m >= 3.

    Raises:
        ValueError: spaces or dimensions differ, or a set is too small.
    """

    def kernel(a, b):
        return polynomial_kernel(a, b, degree=3, gamma=1 / a.shape[1], coef0=1)

    a, b = check_pair(x, y)
    return MMD(*mmd_squared(a, b, kernel, block), "cubic", None, len(a), len(b))


def gaussian_mmd(
    x: Features, y: Features, bandwidth: float | None = None, *, block: int = BLOCK
) -> MMD:
    """Squared MMD with k(x, y) = exp(-|x - y|^2 / (2 bandwidth^2)).

    Values of different bandwidths do not compare: compute `median_bandwidth(real)` once to compare
    several models.

    Args:
        x, y: features (n, d) and (m, d) of one space, n, m >= 3.
        bandwidth: > 0; None takes the median heuristic on both sets (Gretton et al. 2012, section
            8).

    Raises:
        ValueError: spaces or dimensions differ, a set is too small, or the bandwidth is not > 0.
    """
    a, b = check_pair(x, y)
    width = median_bandwidth(x, y) if bandwidth is None else float(bandwidth)
    if not width > 0:
        raise ValueError(
            f"the bandwidth is {width}; a Gaussian kernel needs one > 0: pass it, or check that "
            "the features are not all equal"
        )

    def kernel(a, b):
        return rbf_kernel(a, b, gamma=0.5 / width**2)

    return MMD(*mmd_squared(a, b, kernel, block), "gaussian", width, len(a), len(b))


def median_bandwidth(*sets: Features, points: int = 1000) -> float:
    """Median distance between at most `points` points, chosen evenly from the pooled sets."""
    pooled = np.concatenate([np.asarray(s.values, np.float64) for s in sets])
    chosen = np.linspace(0, len(pooled) - 1, min(points, len(pooled))).round().astype(int)
    return float(np.median(pdist(pooled[chosen])))


def mmd_squared(
    x: np.ndarray, y: np.ndarray, kernel: Callable, block: int = BLOCK
) -> tuple[float, float]:
    """Unbiased squared MMD (Gretton et al. 2012, eq. 3) and its standard error.

        sum_{i != j} k(x_i, x_j) / n(n-1) + sum_{i != j} k(y_i, y_j) / m(m-1)
            - 2 sum_{i, j} k(x_i, y_j) / nm

    The error is a jackknife that leaves out one example, of either set, at a time. Each of its
    values follows from the row sums of the kernel matrices, so the error costs no further kernel
    values. It is too large (Efron and Stein 1981) by a factor of up to sqrt(2) when the laws agree
    and only second-order variance is left, and right when they clearly differ. Memory: block^2 + n
    + m numbers.

    Args:
        x, y: (n, d) and (m, d), float64, n, m >= 3.
        kernel: ((a, d), (b, d)) to (a, b), symmetric.
    """
    n, m = len(x), len(y)
    in_x, in_y = row_sums_within(x, kernel, block), row_sums_within(y, kernel, block)
    x_to_y, y_to_x = row_sums_between(x, y, kernel, block)
    within_x, within_y, between = in_x.sum(), in_y.sum(), x_to_y.sum()

    def value(within_x, n, within_y, m, between):
        return within_x / (n * (n - 1)) + within_y / (m * (m - 1)) - 2 * between / (n * m)

    without_x = value(within_x - 2 * in_x, n - 1, within_y, m, between - x_to_y)
    without_y = value(within_x, n, within_y - 2 * in_y, m - 1, between - y_to_x)
    stderr = np.hypot(jackknife(without_x), jackknife(without_y))
    return float(value(within_x, n, within_y, m, between)), float(stderr)


def row_sums_within(x, kernel, block) -> np.ndarray:
    """sum_{j != i} k(x_i, x_j) for every i, (n,); each pair of blocks is computed once."""
    sums = np.zeros(len(x))
    for rows in slices(len(x), block):
        tile = kernel(x[rows], x[rows])
        np.fill_diagonal(tile, 0.0)
        sums[rows] += tile.sum(axis=1)
        for columns in slices(rows.start, block):
            tile = kernel(x[rows], x[columns])
            sums[rows] += tile.sum(axis=1)
            sums[columns] += tile.sum(axis=0)
    return sums


def row_sums_between(x, y, kernel, block) -> tuple[np.ndarray, np.ndarray]:
    """sum_j k(x_i, y_j) for every i, (n,), and sum_i k(x_i, y_j) for every j, (m,)."""
    x_sums, y_sums = np.zeros(len(x)), np.zeros(len(y))
    for rows in slices(len(x), block):
        for columns in slices(len(y), block):
            tile = kernel(x[rows], y[columns])
            x_sums[rows] += tile.sum(axis=1)
            y_sums[columns] += tile.sum(axis=0)
    return x_sums, y_sums


def slices(n: int, block: int) -> list[slice]:
    return [slice(start, min(start + block, n)) for start in range(0, n, block)]


def check_pair(x: Features, y: Features) -> tuple[np.ndarray, np.ndarray]:
    """Return both sets of values in float64.

    Raises:
        ValueError: spaces or dimensions differ, or a set has fewer than 3 examples.
    """
    a, b = np.asarray(x.values, np.float64), np.asarray(y.values, np.float64)
    if a.ndim != 2 or b.ndim != 2 or x.space != y.space or a.shape[1] != b.shape[1]:
        raise ValueError(
            f"features of {x.space!r} with shape {a.shape} meet features of {y.space!r} with shape "
            f"{b.shape}; the discrepancy needs (n, d) and (m, d) of one space: extract both sets "
            "with one feature space"
        )
    if min(len(a), len(b)) < 3:
        raise ValueError(
            f"the sets hold {len(a)} and {len(b)} examples; the estimate with its standard error "
            "needs at least 3 in each: draw more"
        )
    return a, b
