"""Moments of features on disk: statistics files of this and other projects, resumable streams.

A file of this project holds `mu` (d,), `sigma` (d, d), `n`, the id of the feature `space` and the
`fingerprint` of the data. Files of other projects hold `mu` and `sigma` alone (pytorch-fid,
clean-fid, EDM) or the features themselves as `pool_3` (N, d) (score_sde), and do not name their
feature space. Two Inception networks give numbers that look alike and do not compare. The user must
therefore state the space of such a file, and the report says that the space was stated.
"""

import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.linalg.blas import dsyrk

from evaluation.metrics.frechet import Moments, finite_rows
from evaluation.spaces.features import FeatureSpace
from evaluation.store.batches import sha256
from whole_files import put_arrays

ROWS = 1000  # rows of stored features in a batch
ASYMMETRY = 1e-6  # of the largest entry of sigma; float32 rounding is below it


class Statistics(NamedTuple):
    """Moments of a statistics file, and the facts about the file for a report.

    `sha256`: hash of the file's bytes, hexadecimal. `space_is`: "recorded" if the file names its
    space, "stated" if the caller did. `fingerprint`: of the data, None if the file has none.
    """

    moments: Moments
    sha256: str
    space_is: str
    fingerprint: str | None


def stream(
    space: FeatureSpace, batches: Iterable[np.ndarray], start: Moments | None = None
) -> Moments:
    """Moments of the features of all batches; one batch is in memory at a time.

    Mean and scatter are updated batch by batch as in `merge`, in float64. The scatter is updated in
    place, so memory is one (d, d) matrix for any number of examples. A stream can be resumed:
    moments saved by `save_moments` after some batches, and given as `start` for the others, give
    the result of an uninterrupted stream bit for bit. `start.n` is the number of examples in it.
    Moments that several hosts streamed are joined by `frechet.merge`.

    Args:
        batches: images as `space.extract` takes them.
        start: moments of earlier batches, to which these are added.

    Raises:
        ValueError: there is no batch and no start; the features are no finite matrix or change
            their dimension; `start` is of another space or dimension, or its n is None.
    """
    if start is not None and (start.space != space.id or start.n is None):
        raise ValueError(
            f"the moments in `start` have n = {start.n} in space {start.space!r}, the stream is of "
            f"{space.id!r}; a stream resumes in its own space and with a known n: begin a new one"
        )
    n, mean, scatter = 0, None, None
    if start is not None:
        # Fortran order, which dsyrk needs to update in place. Copies leave `start` unchanged.
        n, mean, scatter = start.n, start.mean.copy(), np.array(start.scatter, order="F")
    for batch in batches:
        x = finite_rows(space(batch))
        if scatter is None:
            mean, scatter = np.zeros(x.shape[1]), np.zeros((x.shape[1],) * 2, order="F")
        if x.shape[1] != mean.size:
            raise ValueError(
                f"a batch has features of {x.shape[1]} dimensions after {n} of {mean.size}; one "
                "space has one dimension: give images of one shape"
            )
        delta = x.mean(axis=0) - mean
        # The last row gives the term of `merge` that comes from the difference of the means.
        rows = np.vstack([x - x.mean(axis=0), delta * np.sqrt(n * len(x) / (n + len(x)))])
        scatter = dsyrk(1.0, rows.T, beta=1.0, c=scatter, overwrite_c=True)
        n += len(x)
        mean = mean + delta * (len(x) / n)
    if scatter is None:
        raise ValueError("the stream has no batch; moments need at least one example")
    for column in range(mean.size):  # dsyrk writes the upper triangle only
        scatter[column + 1 :, column] = scatter[column, column + 1 :]
    return Moments(space.id, n, mean, scatter)


def write_statistics(path: str | Path, moments: Moments, fingerprint: str) -> str:
    """Write `mu, sigma, n, space, fingerprint` to an npz and return its SHA-256, hexadecimal.

    Raises:
        ValueError: n is None or below 2.
    """
    if moments.n is None:
        raise ValueError(
            "moments of unknown n come from a statistics file without it, and cannot be written "
            "without n: copy that file"
        )
    put_arrays(
        path,
        mu=moments.mean,
        sigma=moments.cov,
        n=moments.n,
        space=moments.space,
        fingerprint=fingerprint,
    )
    return sha256(path)


def read_statistics(
    path: str | Path, space: str, *, stated: str | None = None, dim: int | None = None
) -> Statistics:
    """Read the moments of a statistics file, for distances in the feature space `space`.

    Args:
        path: an npz with `mu` and `sigma`, or with features `pool_3` (N, d); if both are there,
            `pool_3` is used.
        space: id of the feature space that the file must be of.
        stated: id of the feature space of a file that does not record one, from its source.
        dim: dimension d of the features, if it is known; the file is checked against it.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged or no npz; its space is another than `space`, is neither
            recorded nor stated, or is recorded and stated differently; keys are missing; shapes,
            dimension or n are wrong; a value is not finite; sigma is not symmetric or has a
            negative variance.
    """
    path = Path(path)
    stored = read(path, ("mu", "sigma", "n", "space", "fingerprint", "pool_3"))
    recorded = str(stored["space"]) if "space" in stored else None
    check_space(path, space, recorded, stated)
    moments = (
        of_features(path, space, stored["pool_3"])
        if "pool_3" in stored
        else of_moments(path, space, stored)
    )
    if dim is not None and moments.mean.size != dim:
        raise ValueError(
            f"{path} has statistics of {moments.mean.size} dimensions, the features have {dim}; "
            "the two must be of one network and layer: take the file that belongs to it"
        )
    return Statistics(
        moments,
        sha256(path),
        "stated" if recorded is None else "recorded",
        str(stored["fingerprint"]) if "fingerprint" in stored else None,
    )


def save_moments(path: str | Path, moments: Moments) -> str:
    """Write moments in full precision, whole or not at all, and return the file's SHA-256."""
    fields = {name: value for name, value in moments._asdict().items() if value is not None}
    put_arrays(path, **fields)
    return sha256(path)


def load_moments(path: str | Path) -> Moments:
    """Read what `save_moments` wrote, bit for bit.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, or was not written by `save_moments`.
    """
    path = Path(path)
    stored = read(path, Moments._fields)
    if missing := {"space", "mean", "scatter"} - stored.keys():
        raise ValueError(
            f"{path} has no {sorted(missing)}; moments that were saved have them: a statistics "
            "file is read by read_statistics"
        )
    n = int(stored["n"]) if "n" in stored else None
    return Moments(str(stored["space"]), n, stored["mean"], stored["scatter"])


def read(path: Path, keys: Iterable[str]) -> dict[str, np.ndarray]:
    """Read the arrays `keys`, as far as the file has them; other arrays are not read.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged or no npz.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}; name an npz of statistics")
    try:
        # Pickles are refused: a data file must not be able to run code.
        with np.load(path, allow_pickle=False) as stored:
            return {key: stored[key] for key in keys if key in stored}
    except (
        *(ValueError, TypeError, AttributeError, OSError, EOFError, RuntimeError),
        *(zipfile.BadZipFile, zlib.error),
    ) as error:
        raise ValueError(
            f"{path} is not a whole npz of plain arrays ({error}): fetch or write it again"
        ) from error


def check_space(path: Path, space: str, recorded: str | None, stated: str | None) -> None:
    if recorded is None and stated is None:
        raise ValueError(
            f"{path} does not say its feature space; features of {space!r} compare only with "
            "features of the same space: state the id that the file's source names"
        )
    if recorded is not None and stated not in (None, recorded):
        raise ValueError(
            f"{path} records the feature space {recorded!r}, and {stated!r} was stated; the record "
            "in the file is used: do not state a space"
        )
    if (recorded or stated) != space:
        raise ValueError(
            f"{path} is of feature space {recorded or stated!r}, the features are of {space!r}; "
            "features of different spaces do not compare: take the file of this space"
        )


def of_features(path: Path, space: str, x: np.ndarray) -> Moments:
    if x.ndim != 2 or len(x) < 2 or not np.issubdtype(x.dtype, np.floating):
        raise ValueError(
            f"`pool_3` of {path} is {x.dtype} of shape {x.shape}; features are floats (N, d), N at "
            "least 2"
        )
    held = FeatureSpace(space, space, lambda rows: rows)
    try:
        return stream(held, (x[i : i + ROWS] for i in range(0, len(x), ROWS)))
    except ValueError as error:
        raise ValueError(f"`pool_3` of {path}: {error}") from error


def of_moments(path: Path, space: str, stored: dict[str, np.ndarray]) -> Moments:
    if missing := {"mu", "sigma"} - stored.keys():
        raise ValueError(
            f"{path} has no {sorted(missing)}; statistics are `mu` with `sigma`, or features "
            "`pool_3`: write them as such"
        )
    mean, cov = stored["mu"], stored["sigma"]
    floats = all(np.issubdtype(array.dtype, np.floating) for array in (mean, cov))
    if not floats or mean.ndim != 1 or mean.size == 0 or cov.shape != (mean.size,) * 2:
        raise ValueError(
            f"{path} has `mu` {mean.dtype} of shape {mean.shape} and `sigma` {cov.dtype} of shape "
            f"{cov.shape}; they must be floats (d,) and (d, d)"
        )
    mean, cov = mean.astype(np.float64), cov.astype(np.float64)
    if not (np.isfinite(mean).all() and np.isfinite(cov).all()):
        raise ValueError(
            f"{path} has values that are not finite in `mu` or `sigma`; all must be: compute the "
            "statistics again"
        )
    gap, size = np.abs(cov - cov.T).max(), np.abs(cov).max()
    if gap > ASYMMETRY * size or cov.diagonal().min() < 0:
        raise ValueError(
            f"`sigma` of {path} differs from its transpose by up to {gap:.3g} and has a smallest "
            f"variance of {cov.diagonal().min():.3g}; a covariance is symmetric to {ASYMMETRY:g} "
            f"of its largest entry, here {size:.3g}, with variances >= 0: compute it again"
        )
    cov = (cov + cov.T) / 2
    if "n" not in stored:
        return Moments(space, None, mean, cov)
    n = stored["n"]
    if n.ndim != 0 or not np.issubdtype(n.dtype, np.integer) or n < 2:
        raise ValueError(
            f"`n` of {path} is {n}; it must be a whole number of at least 2 examples, or be left "
            "out"
        )
    return Moments(space, int(n), mean, cov * (int(n) - 1))
