"""Sets of images for comparison, read in batches, so that a set need not fit into memory as floats.

Images are float64 in [0, 1] on the data's own lattice, as feature spaces take them.
"""

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from data.order import permutation
from data.scaling import Scaler

BATCH = 1000
VALUES = 2**25  # values of a batch at most: 256 MiB in float64, 170 colour images of 256 px
PIXELS = 2**22  # pixels of a grid of images at most: 64 images of 256 px, 4 of 1024 px


class Images(NamedTuple):
    """`n` images of one shape; `fetch(first, last)` returns (last - first, *shape) of them."""

    n: int
    fetch: Callable[[int, int], np.ndarray]
    shape: tuple[int, ...]

    def __len__(self) -> int:
        return self.n

    @property
    def size(self) -> int:
        """The number of images of a batch; the last batch may be smaller."""
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
        """The images `first` to `last - 1`, as a set of their own."""
        fetch = lambda a, b: self.fetch(first + a, first + b)
        return Images(last - first, fetch, self.shape)

    def first(self, n: int) -> np.ndarray:
        """The first n images, or all if there are fewer, as one array."""
        return self.fetch(0, min(n, self.n))


def to_levels(scaler: Scaler, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Convert states (n, ...) in units of the model to integer levels, and to levels in [0, 1].

    Continuous data are returned unchanged, twice. A value that is not finite has no level: the
    first array holds an arbitrary number in its place, the second nan.
    """
    if scaler.levels == 0:
        return x, x
    levels = np.asarray(scaler.quantize(jnp.nan_to_num(jnp.asarray(x))))
    return levels, np.where(np.isfinite(x), levels / (scaler.levels - 1.0), np.nan)


def of_levels(levels: np.ndarray, count: int) -> Images:
    """Images of integer levels 0 to count - 1, (n, ...), divided by count - 1."""
    fetch = lambda first, last: levels[first:last] / (count - 1.0)
    return Images(len(levels), fetch, levels.shape[1:])


def of_source(source, limit: int | None = None) -> Images:
    """All examples of a split in their order, or at most `limit` of them.

    The `limit` examples are the first of a fixed permutation, since a data set may be sorted, by
    class for example. Continuous data are not scaled to [0, 1].
    """
    top = source.levels - 1.0 if source.levels else 1.0
    order = np.arange(source.size) if limit is None else permutation(0, 0, source.size)[:limit]
    fetch = lambda first, last: source.fetch(order[first:last]).astype(np.float64) / top
    return Images(len(order), fetch, source.shape)


def of_array(unit: np.ndarray) -> Images:
    """Images of an array of floats in [0, 1], (n, ...)."""
    return Images(len(unit), lambda first, last: unit[first:last], unit.shape[1:])


def shown(most: int, shape: tuple[int, ...]) -> int:
    """The number of images of a shape (H, W, ...) in a picture: `most`, or fewer large ones."""
    return max(1, min(most, PIXELS // (shape[0] * shape[1])))
