"""Images to be compared, in batches: a data set or many samples need not fit into memory as floats.

An image is in [0, 1] on the data's own lattice, float64, as feature spaces take it.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

BATCH = 1000


class Images(NamedTuple):
    """`fetch(first, last) -> (last - first, ...)` of `n` images."""

    n: int
    fetch: Callable[[int, int], np.ndarray]

    def __len__(self) -> int:
        return self.n

    def count(self, size: int = BATCH) -> int:
        """Of batches."""
        return -(-self.n // size)

    def batch(self, i: int, size: int = BATCH) -> np.ndarray:
        return self.fetch(i * size, min((i + 1) * size, self.n))

    def batches(self, size: int = BATCH) -> Iterator[np.ndarray]:
        for i in range(self.count(size)):
            yield self.batch(i, size)

    def first(self, n: int) -> np.ndarray:
        """At most n of them, as one array."""
        return self.fetch(0, min(n, self.n))


def of_levels(levels: np.ndarray, count: int) -> Images:
    """Integers 0 to count - 1, (n, ...), over count - 1."""
    return Images(len(levels), lambda first, last: levels[first:last] / (count - 1.0))


def of_source(source, limit: int | None = None) -> Images:
    """The first `limit` examples of a split, or all; continuous data as they are."""
    top = source.levels - 1.0 if source.levels else 1.0
    fetch = lambda first, last: source.fetch(np.arange(first, last)).astype(np.float64) / top
    return Images(min(limit or source.size, source.size), fetch)


def of_array(unit: np.ndarray) -> Images:
    """Floats in [0, 1], (n, ...)."""
    return Images(len(unit), lambda first, last: unit[first:last])
