"""Arrays from one `.npz` file: images or vectors, as `numpy.savez` writes them."""

import pathlib
from typing import NamedTuple

import numpy as np

from data.npz_arrays import Header, array, blocks, headers
from data.order import permutation
from data.source import Source, check_split, from_array

SPLIT_SEED = 0  # of the permutation whose first entries are held out if there is no x_test


def load(split: str, path: str = "", holdout: float = 0.1) -> Source:
    """One split of a `.npz` file.

    The file has `x` (or `arr_0`), and may have labels `y`, a test split `x_test`, `y_test`, and a
    scalar `levels`. Integer arrays are discrete, with `levels` grey levels (by default 256 for
    uint8); float arrays are continuous and become float32. Arrays (N, H, W) get a channel axis; (N,
    H, W, C) are images and (N, D) vectors. `x1` and `x1_test` are second ends of the rows of `x`
    and `x_test`: the examples of such a file are pairs.

    Args:
        split: "train" or "test".
        path: the file.
        holdout: if the file has no `x_test`, this fraction of `x`, chosen by a fixed permutation of
            its rows, is the test split, and the rest the training split; 0 holds out nothing.

    Raises:
        ValueError: for an unknown split, a file that is not a plain `.npz`, or arrays of another
            kind than the above; the sentence names the array.
        FileNotFoundError: if there is no such file.
    """
    check_split("npz", split, ("train", "test"))
    file = pathlib.Path(path).expanduser()
    part = _part(file, split, holdout)
    x, levels = _examples(file, part.x, part.rows, part.levels)
    x1 = None
    if part.x1 is not None:
        x1, _ = _examples(file, part.x1, part.rows, part.levels)
        if x1.shape != x.shape:
            raise ValueError(
                f"{file}: `x1` has shape {x1.shape} and `x` {x.shape} in the split '{split}'; they "
                "are the two ends of pairs, row by row."
            )
    y = None if part.y is None else _labels(file, part.y, part.rows, x.shape[:1])
    return from_array(f"npz/{file.stem}", split, x, y, levels, x1)


class Part(NamedTuple):
    """Where a split lies in a file: names of arrays, and its sorted rows of them (None for all)."""

    x: str
    y: str | None
    x1: str | None
    levels: int | None
    rows: np.ndarray | None


def _part(file: pathlib.Path, split: str, holdout: float) -> Part:
    if not file.is_file():
        raise FileNotFoundError(
            f"No file {file}: `path` must name a .npz file with an array `x`; numpy.savez(path, "
            "x=images) writes one."
        )
    known = headers(file)
    name = next((name for name in ("x", "arr_0") if name in known), None)
    if name is None:
        raise ValueError(
            f"{file} holds {sorted(known)}: it needs an array called `x` (or `arr_0`)."
        )
    _check_shape(file, split, known[name].shape)
    levels = _levels(file, array(file, "levels") if "levels" in known else None)
    there = lambda name: name if name in known else None
    if "x_test" in known:
        _check_alike(file, name, known[name], known["x_test"])
        end = "_test" if split == "test" else ""
        return Part("x_test" if end else name, there(f"y{end}"), there(f"x1{end}"), levels, None)
    if not 0 <= holdout < 1:
        raise ValueError(f"holdout={holdout}: a fraction of at least 0 and below 1 is needed.")
    size = known[name].shape[0]
    n_test = round(holdout * size)
    if split == "test" and n_test == 0:
        raise ValueError(
            f"{file} has no `x_test`, and holdout={holdout} of its {size} rows is none: add "
            "`x_test` to the file or raise `holdout`."
        )
    order = permutation(SPLIT_SEED, 0, max(size, 1))
    rows = np.sort(order[:n_test] if split == "test" else order[n_test:size])
    # All rows of arrays of another length than x: they are refused.
    for other in ("y", "x1"):
        if other in known and known[other].shape[:1] != (size,):
            rows = None
    return Part(name, there("y"), there("x1"), levels, rows)


def _labels(file, name: str, rows: np.ndarray | None, shape: tuple[int, ...]) -> np.ndarray:
    y = array(file, name)
    y = y if rows is None else y[rows]
    if y.shape != shape or not np.issubdtype(y.dtype, np.integer):
        raise ValueError(
            f"{file}: labels are {y.dtype} of shape {y.shape}; they must be integers of shape "
            f"{shape}, one for each example."
        )
    if y.size and not 0 <= y.min() <= y.max() < 2**31:
        raise ValueError(
            f"{file}: labels run from {y.min()} to {y.max()}; they must be classes from 0, below "
            "2**31."
        )
    return y


def _levels(file, levels: np.ndarray | None) -> int | None:
    if levels is None:
        return None
    if levels.shape != () or not np.issubdtype(levels.dtype, np.integer):
        raise ValueError(
            f"{file}: `levels` is {levels.dtype} of shape {levels.shape}; it must be one integer."
        )
    return int(levels)


def _check_alike(file, name: str, train: Header, test: Header) -> None:
    """Refuse a training and a test split with different shapes or kinds of numbers."""
    if train.dtype.kind != test.dtype.kind or train.shape[1:] != test.shape[1:]:
        raise ValueError(
            f"{file}: `{name}` is {train.dtype} of shape {train.shape} and `x_test` {test.dtype} "
            f"of shape {test.shape}; examples of both must have one shape and one kind of numbers."
        )


def _check_shape(file, split: str, shape: tuple[int, ...]) -> None:
    if len(shape) not in (2, 3, 4) or 0 in shape[1:]:
        raise ValueError(
            f"{file}: the array for split '{split}' has shape {shape}; it must be (N, D), "
            "(N, H, W) or (N, H, W, C), with no side of 0."
        )
    if len(shape) == 4 and shape[1] in (1, 2, 3, 4) and shape[2] == shape[3] > 4:
        raise ValueError(
            f"{file}: the array for split '{split}' has shape {shape}, which looks like "
            "(N, C, H, W); images are (N, H, W, C): save x.transpose(0, 2, 3, 1)."
        )


def _examples(
    file: pathlib.Path, name: str, rows: np.ndarray | None, levels: int | None
) -> tuple[np.ndarray, int]:
    """Rows of an array in their smallest dtype, and the levels; no other row is held in memory."""
    header = headers(file)[name]
    dtype, levels = _target(file, header.dtype, levels)
    shape = header.shape + (1,) * (len(header.shape) == 3)
    found = np.empty((shape[0] if rows is None else len(rows), *shape[1:]), dtype)
    ends, first, filled = [], 0, 0
    for block in blocks(file, name):
        if rows is not None:
            here = rows[filled : np.searchsorted(rows, first + len(block))] - first
            first += len(block)
            block = block[here]
        if not block.size:
            continue
        ends += [block.min(), block.max()]
        if not np.isfinite(ends[-2:]).all():
            raise ValueError(f"{file}: the array holds values that are not finite; remove them.")
        with np.errstate(over="ignore"):
            found[filled : filled + len(block)] = block.reshape(-1, *shape[1:])
        filled += len(block)
    if ends:
        _check_range(file, min(ends), max(ends), levels)
    return found, levels


def _target(file, dtype: np.dtype, levels: int | None) -> tuple[np.dtype, int]:
    """The dtype in which data are held, and the levels; 0 for continuous data."""
    if np.issubdtype(dtype, np.floating):
        if levels:
            raise ValueError(
                f"{file}: `levels` is {levels} but the array is {dtype}; discrete data must be "
                "integers 0 ... levels - 1, and continuous data must go without `levels`."
            )
        return np.dtype(np.float32), 0
    if levels is None and dtype == np.uint8:
        levels = 256
    if not np.issubdtype(dtype, np.integer) or not levels or not 2 <= levels <= 65536:
        raise ValueError(
            f"{file}: the array is {dtype} and `levels` is {levels}; give uint8 (256 levels), "
            "other integers with a scalar `levels` from 2 to 65536, or floats for continuous data."
        )
    return np.dtype(np.uint8 if levels <= 256 else np.uint16), levels


def _check_range(file, low: np.number, high: np.number, levels: int) -> None:
    if levels and not 0 <= low <= high < levels:
        raise ValueError(
            f"{file}: values run from {low} to {high}; with levels={levels} they must lie "
            f"from 0 to {levels - 1}."
        )
    if not levels and max(high, -low) > np.finfo(np.float32).max:
        raise ValueError(
            f"{file}: the array holds values up to {max(high, -low):.3g}, beyond "
            "float32; scale the data to about unit size."
        )
