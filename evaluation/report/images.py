"""Images to be compared, in batches: a data set or many samples need not fit into memory as floats.

An image is in [0, 1] on the data's own lattice, float64, as feature spaces take it.
"""

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from data.order import permutation
from data.scaling import Scaler

BATCH = 1000
VALUES = 2**25  # of a batch at most: 256 MiB in float64, 170 colour images of 256 px
PIXELS = 2**22  # of a picture of several images: 64 of 256 px, 4 of 1024 px


class Images(NamedTuple):
    """`fetch(first, last) -> (last - first, *shape)` of `n` images."""

    n: int
    fetch: Callable[[int, int], np.ndarray]
    shape: tuple[int, ...]

    def __len__(self) -> int:
        return self.n

    @property
    def size(self) -> int:
        """Images of a batch; the last batch may be smaller."""
        return max(1, min(BATCH, VALUES // math.prod(self.shape)))

    def count(self) -> int:
        """The number of batches."""
        return -(-self.n // self.size)

    def batch(self, i: int) -> np.ndarray:
        return self.fetch(i * self.size, min((i + 1) * self.size, self.n))

    def batches(self) -> Iterator[np.ndarray]:
        for i in range(self.count()):
            yield self.batch(i)

    def part(self, first: int, last: int) -> "Images":
        """Those from `first` up to `last`, as a set of their own."""
        fetch = lambda a, b: self.fetch(first + a, first + b)
        return Images(last - first, fetch, self.shape)

    def first(self, n: int) -> np.ndarray:
        """At most n of them, as one array."""
        return self.fetch(0, min(n, self.n))


def to_levels(scaler: Scaler, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """States (n, ...) as the data set has its examples: integer levels, and those in [0, 1].

    Continuous data come back as they are, twice. What is not finite has no level: the first holds
    any number there, and the second nan.
    """
    if scaler.levels == 0:
        return x, x
    levels = np.asarray(scaler.quantize(jnp.nan_to_num(jnp.asarray(x))))
    return levels, np.where(np.isfinite(x), levels / (scaler.levels - 1.0), np.nan)


def of_levels(levels: np.ndarray, count: int) -> Images:
    """Integers 0 to count - 1, (n, ...), over count - 1."""
    fetch = lambda first, last: levels[first:last] / (count - 1.0)
    return Images(len(levels), fetch, levels.shape[1:])


def of_source(source, limit: int | None = None) -> Images:
    """All examples of a split in their order, or at most `limit` of them in the order of a fixed
    permutation, since a data set may be sorted, by class for one; continuous data as they are."""
    top = source.levels - 1.0 if source.levels else 1.0
    order = np.arange(source.size) if limit is None else permutation(0, 0, source.size)[:limit]
    fetch = lambda first, last: source.fetch(order[first:last]).astype(np.float64) / top
    return Images(len(order), fetch, source.shape)


def of_array(unit: np.ndarray) -> Images:
    """Floats in [0, 1], (n, ...)."""
    return Images(len(unit), lambda first, last: unit[first:last], unit.shape[1:])


def shown(most: int, shape: tuple[int, ...]) -> int:
    """How many images of that shape are in a picture: `most`, or of large ones fewer."""
    return max(1, min(most, PIXELS // (shape[0] * shape[1])))
