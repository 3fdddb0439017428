"""Arrays from one `.npz` file: images or vectors, as `numpy.savez` writes them."""

import pathlib
import zipfile

import numpy as np

from data.order import permutation
from data.source import Source, check_split, from_array

SPLIT_SEED = 0  # of the permutation whose first entries are held out where there is no x_test


def load(split: str, path: str = "", holdout: float = 0.1) -> Source:
    """One split of a `.npz` file.

    The file holds `x` (or `arr_0`), and may hold `y`, `x_test`, `y_test` and a scalar `levels`.
    Integer arrays are discrete, with `levels` grey levels (256 for uint8 unless told otherwise);
    float arrays are continuous and become float32. Arrays (N, H, W) get a channel axis; (N, H, W,
    C) are images and (N, D) vectors.

    Args:
        split: "train" or "test".
        path: the file.
        holdout: where the file has no `x_test`, the fraction of `x`, chosen by a fixed permutation
            of its rows, that is the test split and not in the training split; 0 holds out nothing.

    Raises:
        ValueError: for an unknown split, a file that is not a plain `.npz`, or arrays of another
            kind than the above; the sentence names the array.
        FileNotFoundError: if there is no such file.
    """
    check_split("npz", split, ("train", "test"))
    file = pathlib.Path(path).expanduser()
    x, y, levels = _read(file, split, holdout)
    if x.ndim not in (2, 3, 4):
        raise ValueError(
            f"{file}: the array for split '{split}' has shape {x.shape}; it must be (N, D), "
            "(N, H, W) or (N, H, W, C)."
        )
    x = x[..., None] if x.ndim == 3 else x
    x, levels = _typed(file, x, levels)
    if y is not None and (y.shape != x.shape[:1] or not np.issubdtype(y.dtype, np.integer)):
        raise ValueError(
            f"{file}: labels are {y.dtype} of shape {y.shape}; they must be integers of shape "
            f"{x.shape[:1]}, one for each example."
        )
    return from_array(f"npz/{file.stem}", split, x, y, levels)


def _read(file, split, holdout) -> tuple[np.ndarray, np.ndarray | None, int | None]:
    if not file.is_file():
        raise FileNotFoundError(
            f"No file {file}: `path` must name a .npz file with an array `x`; numpy.savez(path, "
            "x=images) writes one."
        )
    try:
        # Without pickle: a data file must not be able to run code.
        arrays = dict(np.load(file, allow_pickle=False))
    except (ValueError, TypeError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"{file} is not a whole .npz file of plain arrays ({error}): write it with "
            "numpy.savez(path, x=images)."
        ) from error
    x = arrays.get("x", arrays.get("arr_0"))
    if x is None:
        raise ValueError(
            f"{file} holds {sorted(arrays)}: it needs an array called `x` (or `arr_0`)."
        )
    levels = int(arrays["levels"]) if "levels" in arrays else None
    if "x_test" in arrays:
        end = "_test" if split == "test" else ""
        return (arrays["x_test"] if end else x), arrays.get(f"y{end}"), levels
    y = arrays.get("y")
    if not 0 <= holdout < 1:
        raise ValueError(f"holdout={holdout}: a fraction of at least 0 and below 1 is needed.")
    n_test = round(holdout * len(x))
    if split == "test" and n_test == 0:
        raise ValueError(
            f"{file} has no `x_test`, and holdout={holdout} of its {len(x)} rows is none: add "
            "`x_test` to the file or raise `holdout`."
        )
    order = permutation(SPLIT_SEED, 0, max(len(x), 1))
    rows = np.sort(order[:n_test] if split == "test" else order[n_test : len(x)])
    # Labels of another length than x are reported by the caller, and not cut to fit here.
    return x[rows], y if y is None or len(y) != len(x) else y[rows], levels


def _typed(file, x, levels) -> tuple[np.ndarray, int]:
    if np.issubdtype(x.dtype, np.floating):
        if levels:
            raise ValueError(
                f"{file}: `levels` is {levels} but the array is {x.dtype}; discrete data must be "
                "integers 0 ... levels - 1, and continuous data must go without `levels`."
            )
        if not np.isfinite(x).all():
            raise ValueError(f"{file}: the array holds values that are not finite; remove them.")
        return x.astype(np.float32), 0
    if levels is None and x.dtype == np.uint8:
        levels = 256
    if not np.issubdtype(x.dtype, np.integer) or not levels or not 2 <= levels <= 65536:
        raise ValueError(
            f"{file}: the array is {x.dtype} and `levels` is {levels}; give uint8 (256 levels), "
            "other integers with a scalar `levels` from 2 to 65536, or floats for continuous data."
        )
    if x.size and not 0 <= x.min() <= x.max() < levels:
        raise ValueError(
            f"{file}: values run from {x.min()} to {x.max()}; with levels={levels} they must lie "
            f"from 0 to {levels - 1}."
        )
    return x.astype(np.uint8 if levels <= 256 else np.uint16), levels
