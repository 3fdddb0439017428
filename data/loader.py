"""Batches of a source by step number, read ahead in a background thread."""

import collections
import dataclasses
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from data.order import batch_indices, host_slice
from data.source import Source

Batch = dict[str, np.ndarray]
SECOND = 1  # the stream of permutations for a second source


@dataclasses.dataclass(frozen=True)
class Loader:
    """The batches of `source` by step, in the order of `data.order`; a loader has no state.

    Attributes:
        source: the data of the batches.
        batch_size: examples per step over all processes.
        seed: of the order, not negative.
        second: source of the second ends of pairs, which is independent of the first ends.
        process_index, process_count: this process reads the part `process_index` of each global
            batch, which is divided into `process_count` equal parts.

    Raises:
        ValueError: if process_count does not divide batch_size, or a number is out of range.
    """

    source: Source
    batch_size: int
    seed: int
    process_index: int = 0
    process_count: int = 1
    second: Source | None = None

    def __post_init__(self):
        self.indices(0)

    def indices(self, step: int, source: Source | None = None, stream: int = 0) -> np.ndarray:
        """Numbers of the examples that this process reads at `step`, int64 (b,)."""
        size = (source or self.source).size
        indices = batch_indices(self.seed, step, self.batch_size, size, stream)
        return host_slice(indices, self.process_index, self.process_count)

    def batch(self, step: int) -> Batch:
        """The batch of `step`, with b = batch_size / process_count.

        Returns:
            The fields of the source for the examples of the step: "x0" (b, *shape), the data as the
            source returns them; "cond", such as classes int32 (b,), if there are labels; "x1" (b,
            *shape), if the data are pairs; and "index" int32 (b,). With a `second` source, "x1" are
            its data, in an independent order.
        """
        indices = self.indices(step)
        batch = {name: read(indices) for name, read in self.source.fields.items()}
        if self.second is not None:
            batch["x1"] = self.second.fetch(self.indices(step, self.second, SECOND))
        return {**batch, "index": indices.astype(np.int32)}

    def stacked(self, step: int, n: int) -> Batch:
        """The batches of steps `step` ... `step + n - 1`, each array with a leading axis n."""
        batches = [self.batch(step + i) for i in range(n)]
        return {name: np.stack([b[name] for b in batches]) for name in batches[0]}

    def iterate(
        self,
        start_step: int = 0,
        n_per_call: int = 1,
        *,
        prefetch: int = 2,
        workers: int = 1,
        place: Callable[[Batch], Any] = lambda batch: batch,
    ) -> Iterator[Any]:
        """Iterate over batches from `start_step` on, without end; they are read ahead in threads.

        If reading an item raises an error, the iterator raises it at that item. Closing or deleting
        the iterator waits for the item that is being read and ends the threads.

        Args:
            start_step: the step of the first batch.
            n_per_call: steps per item; above 1 an item has a leading axis of that length.
            prefetch: number of items that are read ahead at most.
            workers: background threads; the order of the items does not depend on their number.
            place: function that is applied to an item in its thread, such as a copy to devices.

        Raises:
            ValueError: if n_per_call, prefetch or workers is below 1.
        """
        if min(n_per_call, prefetch, workers) < 1:
            raise ValueError(
                f"n_per_call={n_per_call}, prefetch={prefetch}, workers={workers}: each must be at "
                "least 1."
            )
        return self._iterate(start_step, n_per_call, prefetch, workers, place)

    # Separate from `iterate`, because the checks of a generator would run only at its first item.
    def _iterate(self, step, n_per_call, prefetch, workers, place):
        def read(step):
            return place(self.batch(step) if n_per_call == 1 else self.stacked(step, n_per_call))

        pool = ThreadPoolExecutor(workers, thread_name_prefix="data-loader")
        pending = collections.deque()
        try:
            while True:
                while len(pending) < prefetch:
                    pending.append(pool.submit(read, step))
                    step += n_per_call
                item = pending.popleft().result()
                # Refilled before the item is yielded, so that the next is read while this is used.
                pending.append(pool.submit(read, step))
                step += n_per_call
                yield item
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
