"""The examples of batch number `step`, as a pure function, so that a resumed run needs no state.

The examples form an endless sequence: the permutation of epoch 0, the permutation of epoch 1, ...
Batch `step` has the elements step * batch_size to (step + 1) * batch_size - 1 of this sequence.
Every epoch therefore has every example exactly once for any batch size; a batch may span two
epochs, and no example is dropped. The order does not depend on the number of processes or devices,
nor on the step from which a run was resumed.
"""

import functools
from collections.abc import Iterator

import numpy as np


# Four permutations: this epoch and the next, for a training and an evaluation order at a time.
@functools.lru_cache(maxsize=4)
def permutation(seed: int, epoch: int, size: int, stream: int = 0) -> np.ndarray:
    """The order of epoch `epoch`: a permutation of 0 ... size - 1, int64 (size,), read-only.

    Permutations of different streams are independent, for less than 2^16 streams and 2^48 epochs.

    Raises:
        ValueError: for a negative seed or epoch, or a size below 1.
    """
    if seed < 0 or epoch < 0 or size < 1:
        raise ValueError(
            f"permutation of seed={seed}, epoch={epoch}, size={size}: seed and epoch must not be "
            "negative and size must be at least 1."
        )
    philox = np.random.Philox(key=np.array([seed, epoch + (stream << 48)], np.uint64))
    # Raw 64-bit words are sorted, in place of Generator.permutation: NumPy guarantees the words of
    # a bit generator for all versions, but not the methods of Generator.
    order = np.argsort(philox.random_raw(size), kind="stable")
    order.setflags(write=False)
    return order


def batch_indices(seed: int, step: int, batch_size: int, size: int, stream: int = 0) -> np.ndarray:
    """Numbers of the examples of batch `step`, int64 (batch_size,).

    Example j of the batch is element n = step * batch_size + j of the endless sequence; its epoch
    is n // size and its number is permutation(seed, epoch)[n % size].

    Raises:
        ValueError: for a negative step or seed, or a batch_size or size below 1.
    """
    if step < 0 or batch_size < 1 or size < 1:
        raise ValueError(
            f"step={step}, batch_size={batch_size}, size={size}: step must not be negative, "
            "batch_size and size must be at least 1."
        )
    epochs, places = np.divmod(step * batch_size + np.arange(batch_size, dtype=np.int64), size)
    indices = np.empty(batch_size, np.int64)
    for epoch in np.unique(epochs):
        here = epochs == epoch
        indices[here] = permutation(seed, int(epoch), size, stream)[places[here]]
    return indices


def host_slice(indices: np.ndarray, process_index: int, process_count: int) -> np.ndarray:
    """The part of a global batch that one process reads, (batch_size / process_count,).

    Raises:
        ValueError: if the batch cannot be divided evenly, or the process does not exist.
    """
    if not 0 <= process_index < process_count:
        raise ValueError(
            f"process_index={process_index} with process_count={process_count}: the index must be "
            f"at least 0 and below the count."
        )
    share, rest = divmod(len(indices), process_count)
    if rest:
        raise ValueError(
            f"A global batch of {len(indices)} examples cannot be shared evenly by {process_count} "
            f"processes: make the batch size a multiple of {process_count}."
        )
    return indices[process_index * share : (process_index + 1) * share]


def padded_batches(size: int, batch_size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield every example exactly once, in order, in batches of one shape, for evaluation.

    Yields (indices int64 (batch_size,), mask bool (batch_size,)). The mask is False in the padding
    at the end of the last batch; the index is 0 there, and the example must not be counted.

    Raises:
        ValueError: for a batch_size or size below 1.
    """
    if batch_size < 1 or size < 1:
        raise ValueError(f"size={size}, batch_size={batch_size}: both must be at least 1.")
    for start in range(0, size, batch_size):
        indices = np.arange(start, start + batch_size, dtype=np.int64)
        mask = indices < size
        yield np.where(mask, indices, 0), mask
