"""The examples of a batch read by several threads, in the order of their numbers.

Threads suffice, because Pillow decodes and resizes without Python's lock. Of a JPEG of 500 x 375
that becomes 256 x 256, 0.25 to 0.65 ms of 4 to 5 hold the lock (`benchmarks.speed.loading`): eight
threads' worth or more, at least 1500 images a second. Worker processes would not share the lock,
but each would need the source and send its batches back, and a fork beside the threads of JAX may
hang. `grain` has threads and processes, with an order and a state of its own, where the order of
this project needs no state (`data.order`), and two more packages to install. Threads live for one
batch, so that none is left when a run ends.
"""

import math
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

Fetch = Callable[[np.ndarray], np.ndarray]
MOST = 16  # threads by default
SMALL = 2**14  # pixels that Pillow decodes while the lock is held for the rest of an image
PARTS = 8  # of a batch, for each thread: no thread waits long for the last part of another


def number_of(workers: int, pixels: float = math.inf) -> int:
    """The number of threads for the argument `workers` of a loader.

    -1 is one a core, `MOST` at most, and no more than the lock can serve: threads that decode
    smaller images wait for each other, and are slower than one. 0 and 1 are none beside the one
    that asks.

    Args:
        pixels: of an image before it is resized.

    Raises:
        ValueError: for a number below -1.
    """
    if workers < -1:
        raise ValueError(
            f"workers={workers}: give the number of threads that decode, or -1 for one a core."
        )
    return int(min(cores(), MOST, 1 + pixels / SMALL)) if workers == -1 else max(workers, 1)


def cores() -> int:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # Linux
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def shared_out(
    fetch: Fetch, shape: tuple[int, ...], dtype: np.dtype, workers: int, pixels: float = math.inf
) -> Fetch:
    """`fetch` with the parts of a batch read by several threads, and the same result.

    If several examples cannot be read, the error is that of the first of them, as without threads.

    Args:
        fetch: maps indices (B,) to an array (B, *shape) of `dtype`; may be called by several
            threads at once.
        workers, pixels: see `number_of`.
    """
    threads = number_of(workers, pixels)
    if threads == 1:
        return fetch

    def fetch_in_parts(indices: np.ndarray) -> np.ndarray:
        indices = np.asarray(indices)
        found = np.empty((len(indices), *shape), dtype)

        def fill(part: slice) -> None:
            found[part] = fetch(indices[part])

        step = -(-len(indices) // (PARTS * threads)) or 1
        parts = [slice(first, first + step) for first in range(0, len(indices), step)]
        with ThreadPoolExecutor(threads, thread_name_prefix="decoder") as pool:
            # Results are taken in order: the first error cancels the parts that have not begun.
            for _ in pool.map(fill, parts):
                pass
        return found

    return fetch_in_parts
