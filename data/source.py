"""The record that every loader returns: a finite, indexable set of examples, and facts about it."""

import dataclasses
import difflib
import functools
import hashlib
from collections.abc import Callable, Collection

import numpy as np

HASHED = 2**28  # bytes of an array that are hashed at most, which takes a second
PASSED = 2**22  # bytes that are hashed at once


@dataclasses.dataclass(frozen=True, eq=False)
class Source:
    """One split of a data set, read by example number.

    Attributes:
        name: name of the data, e.g. ``"digits"`` or ``"tfds/cifar10"``.
        split: name of the split, e.g. ``"train"``.
        fetch: maps integer indices of shape (B,) to a new array (B, *shape); uint8 or uint16 for
            discrete images (NHWC), float32 for continuous data.
        labels: int32 array (size,) of classes, or None.
        size: number of examples, at least 1.
        shape: shape of one example: (H, W, C) for images, (D,) for vectors.
        levels: number of grey levels of discrete data, whose values are 0 ... levels - 1 (256 for
            8-bit images); 0 for continuous data, for which bits/dim is undefined.
        fetch_x1: as `fetch`, for the second end of each example if the data are pairs, else None.
        digest: returns a hash of all the data, in hex digits; None if it is too expensive.

    Raises:
        ValueError: for an empty split, an impossible number of levels, or labels of another length.
    """

    name: str
    split: str
    fetch: Callable[[np.ndarray], np.ndarray]
    labels: np.ndarray | None
    size: int
    shape: tuple[int, ...]
    levels: int
    fetch_x1: Callable[[np.ndarray], np.ndarray] | None = None
    digest: Callable[[], str] | None = None

    def __post_init__(self):
        where = f"{self.name}, split '{self.split}'"
        if self.size < 1:
            raise ValueError(f"{where} has no examples: a source needs at least one.")
        if self.levels < 0 or self.levels == 1:
            raise ValueError(
                f"{where} has levels={self.levels}: give the number of grey levels (2 or more), "
                "or 0 for continuous data."
            )
        if self.labels is not None and self.labels.shape != (self.size,):
            raise ValueError(
                f"{where} has {self.size} examples but labels of shape {self.labels.shape}: "
                f"labels must have shape ({self.size},)."
            )

    def __len__(self) -> int:
        return self.size

    @property
    def fields(self) -> dict[str, Callable[[np.ndarray], np.ndarray]]:
        """The fields of an example, by their key in a batch; each is a function of indices."""
        labels, found = self.labels, {"x0": self.fetch}
        if self.fetch_x1 is not None:
            found["x1"] = self.fetch_x1
        if labels is not None:
            found["cond"] = lambda indices: labels[indices]
        return found

    @property
    def identity(self) -> dict[str, object]:
        """Facts that a run records of its data, and compares when it is resumed.

        They are the number of examples, their shape and levels, and the digest of all data, or the
        fingerprint if there is no digest.
        """
        whole = self.digest() if self.digest is not None else self.fingerprint
        return {
            "size": self.size,
            "shape": list(self.shape),
            "levels": self.levels,
            "digest": whole,
        }

    @functools.cached_property
    def fingerprint(self) -> str:
        """Sixteen hex digits of SHA-256 over name, split, size, shape, levels, first and last
        example. It is cheap enough for every result, but no proof that all data are equal."""
        ends = np.ascontiguousarray(self.fetch(np.array([0, self.size - 1])))
        header = (self.name, self.split, self.size, self.shape, self.levels, str(ends.dtype))
        return hashlib.sha256(repr(header).encode() + ends.tobytes()).hexdigest()[:16]


def from_array(
    name: str,
    split: str,
    array: np.ndarray,
    labels: np.ndarray | None,
    levels: int,
    x1: np.ndarray | None = None,
) -> Source:
    """Make a source of examples in memory.

    Args:
        array: (N, *shape).
        labels: (N,), or None.
        levels: as in `Source`.
        x1: second ends of pairs, (N, *shape), or None.

    Raises:
        ValueError: a value of discrete data is not below `levels`, and as `Source`.
    """
    if levels and array.size and array.max() >= levels:
        raise ValueError(
            f"{name}, split '{split}' holds the value {array.max()}: with levels={levels} values "
            f"run from 0 to {levels - 1}; give the right `levels`."
        )
    labels = None if labels is None else np.asarray(labels, np.int32)
    return Source(
        name=name,
        split=split,
        # Fancy indexing copies, so that changes to a batch do not change the data.
        fetch=lambda indices: array[np.asarray(indices)],
        labels=labels,
        size=len(array),
        shape=tuple(array.shape[1:]),
        levels=levels,
        fetch_x1=None if x1 is None else lambda indices: x1[np.asarray(indices)],
        digest=lambda: digest_of(array, *(v for v in (labels, x1) if v is not None)),
    )


def digest_of(*arrays: np.ndarray) -> str:
    """SHA-256 of arrays, 16 hex digits; of an array above `HASHED` bytes, of evenly spread rows."""
    found = hashlib.sha256()
    for array in arrays:
        rows = array[:: max(1, array.nbytes // HASHED)]
        found.update(repr((array.shape, str(array.dtype))).encode())
        # A few rows at a time, since each is copied.
        count = max(1, PASSED // max(1, array[:1].nbytes))
        for first in range(0, len(rows), count):
            found.update(rows[first : first + count].tobytes())
    return found.hexdigest()[:16]


def unknown(what: str, given: str, known: Collection[str]) -> str:
    """The error sentence for an unknown name, with the nearest known names and up to 30 names."""
    near = difflib.get_close_matches(given, known, n=3, cutoff=0.5)
    hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else "."
    listed = ", ".join(sorted(known)) if len(known) <= 30 else f"{len(known)} names"
    return f"Unknown {what} {given!r}{hint} Known: {listed}."


def check_split(name: str, split: str, known: Collection[str]) -> None:
    """Check that `split` is one of the splits of `name`.

    Raises:
        ValueError: it is not.
    """
    if split not in known:
        raise ValueError(unknown(f"split of {name}", split, known))
