"""Fidelity and diversity, measured apart: precision and recall, density and coverage.

Each point of a set of features gets a ball whose radius is the distance to its k-th nearest
neighbour in the same set. A point in one of the balls counts as near the set. A point is not its
own neighbour, but a duplicate of it is. Balls are closed: a point on the boundary is inside.

None of the four is a distance, all four depend on the sizes of the sets, and only density (1) and
coverage have a known expectation for equal laws. Compare equal sizes, and report the values of real
data beside them. One outlier in a set makes a large ball, which raises precision or recall.

Every standard error is the spread over fresh sets of samples; the spread of the reference and the
bias are not in it. Precision and density are means over samples, and their errors are those of a
mean (0 for a precision of 0 or 1). Recall and coverage have a jackknife over ten groups of samples.
"""

from typing import NamedTuple

import numpy as np
from sklearn.metrics.pairwise import euclidean_distances

from evaluation.metrics.errors import groups, jackknife, mean_and_stderr
from evaluation.metrics.frechet import finite_rows
from evaluation.metrics.mmd import check_pair, slices
from evaluation.spaces.features import Features

BLOCK = 1024  # 8 MiB of distances at a time
# Distances come from |x|^2 - 2 x.y + |y|^2. This tolerance keeps a point on the boundary of a ball
# inside it in spite of rounding.
ROUNDING = 1e-12


class PrecisionRecall(NamedTuple):
    """Two shares in [0, 1], their standard errors, and k; n samples, m reference points."""

    precision: float
    precision_stderr: float
    recall: float
    recall_stderr: float
    k: int
    n: int
    m: int


class DensityCoverage(NamedTuple):
    """Density, >= 0, and coverage, in [0, 1], with errors, and k; n samples, m reference points."""

    density: float
    density_stderr: float
    coverage: float
    coverage_stderr: float
    k: int
    n: int
    m: int


def precision_recall(
    samples: Features, reference: Features, k: int = 3, *, block: int = BLOCK
) -> PrecisionRecall:
    """Improved precision and recall (Kynkaanniemi et al. 2019, arXiv:1904.06991, eq. 1 and 2).

        precision = share of samples in a ball about a reference point
        recall    = share of reference points in a ball about a sample

    Args:
        samples, reference: features (n, d) and (m, d) of one space.
        k: the radius of a ball is the distance to the k-th neighbour; 3 as in the paper.
        block: rows and columns of the matrix of distances that are in memory at a time.

    Raises:
        ValueError: spaces or dimensions differ, a value is not finite, or a set is too small for
            k neighbours (with a tenth of the samples left out).
    """
    x, y = prepare(samples, reference, k)
    group, radii_y = groups(len(x)), radii(nearest(y, np.zeros(len(y), int), k, block), k)
    near = nearest(x, group, k, block)
    # Row 0: radii among all samples. Row 1 + j: radii among the samples without group j.
    radii_x = [
        radii(near, k),
        *(radii(np.delete(near, j, axis=1), k) for j in range(near.shape[1])),
    ]
    precise, recalled = np.zeros(len(x), bool), np.zeros((len(radii_x), len(y)), bool)
    for rows, columns, tile in tiles(x, y, block, ROUNDING):
        precise[rows] |= (tile <= radii_y[columns]).any(axis=1)
        for j, radius in enumerate(radii_x, start=-1):
            inside = tile <= radius[rows, None]
            recalled[1 + j, columns] |= inside[group[rows] != j].any(axis=0)
    shares = recalled.mean(axis=1)
    return PrecisionRecall(
        *mean_and_stderr(precise), float(shares[0]), jackknife(shares[1:]), k, len(x), len(y)
    )


def density_coverage(
    samples: Features, reference: Features, k: int = 5, *, block: int = BLOCK
) -> DensityCoverage:
    """Density and coverage (Naeem et al. 2020, arXiv:2002.09797, eq. 2 and 3).

        density  = mean over samples of (number of balls about reference points they lie in) / k
        coverage = share of balls about reference points that hold a sample

    For equal laws their expectations are 1 and 1 - prod_{i=1..k} (m - i) / (n + m - i).

    Arguments and errors are those of `precision_recall`; k = 5 as in the paper.
    """
    x, y = prepare(samples, reference, k)
    group, radii_y = groups(len(x)), radii(nearest(y, np.zeros(len(y), int), k, block), k)
    balls, held = np.zeros(len(x)), np.zeros((group.max() + 1, len(y)), bool)
    for rows, columns, tile in tiles(x, y, block, ROUNDING):
        inside = tile <= radii_y[columns]
        balls[rows] += inside.sum(axis=1)
        for j in range(len(held)):
            held[j, columns] |= inside[group[rows] == j].any(axis=0)
    left_out = [np.delete(held, j, axis=0).any(axis=0).mean() for j in range(len(held))]
    coverage = float(held.any(axis=0).mean())
    return DensityCoverage(
        *mean_and_stderr(balls / k), coverage, jackknife(left_out), k, len(x), len(y)
    )


def prepare(samples: Features, reference: Features, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Check both sets and centre them on the reference's mean, so that distances cancel less.

    Raises:
        ValueError: as `precision_recall`.
    """
    check_pair(samples, reference)
    x, y = finite_rows(samples), finite_rows(reference)
    left = len(x) - int(np.bincount(groups(len(x))).max())
    if not 1 <= k < min(left, len(y)):
        raise ValueError(
            f"k = {k} neighbours were asked for in {len(x)} samples, {left} of them while the "
            f"error is estimated, and {len(y)} reference points; k must be at least 1 and below "
            "these numbers: lower k or draw more"
        )
    centre = y.mean(axis=0)
    return x - centre, y - centre


def nearest(x: np.ndarray, group: np.ndarray, k: int, block: int) -> np.ndarray:
    """Squared distances (n, groups, k) from each point to the k nearest others in each group.

    They are not sorted; where a group has fewer than k other points, the rest is infinite.
    """
    found = np.full((len(x), group.max() + 1, k), np.inf)
    for rows, columns, tile in tiles(x, x, block, 0.0):
        if rows == columns:
            np.fill_diagonal(tile, np.inf)
        for j in range(found.shape[1]):
            both = np.concatenate([found[rows, j], tile[:, group[columns] == j]], axis=1)
            found[rows, j] = np.partition(both, k - 1, axis=1)[:, :k]
    return found


def radii(near: np.ndarray, k: int) -> np.ndarray:
    """The k-th smallest of the (groups, k) distances of each point: squared radii (n,)."""
    return np.partition(near.reshape(len(near), -1), k - 1, axis=1)[:, k - 1]


def tiles(x: np.ndarray, y: np.ndarray, block: int, rounding: float):
    """Yield slices of rows of x and of y, and their squared distances, lowered by the rounding."""
    squares_x, squares_y = np.sum(x**2, axis=1), np.sum(y**2, axis=1)
    for columns in slices(len(y), block):
        for rows in slices(len(x), block):
            tile = euclidean_distances(x[rows], y[columns], squared=True)
            tile -= rounding * squares_x[rows, None]
            tile -= rounding * squares_y[columns]
            yield rows, columns, tile
