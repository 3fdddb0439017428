"""Jobs of several processes: the exchange of results and errors between them.

Every process runs the same program. Process 0, the lead, writes the files of the whole job.
"""

import io
import json
from collections.abc import Callable
from typing import TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

Arrays = dict[str, np.ndarray]
T = TypeVar("T")


class JobError(RuntimeError):
    """One sentence: the processes of a job did not meet, one of them is gone, or one of them
    failed."""


def of_another(error: Exception) -> bool:
    """Whether an operation of all processes failed in this one because another one is gone. On CPUs
    jax raises the message of Gloo as a plain ValueError."""
    if isinstance(error, jax.errors.JaxRuntimeError):
        return "RESOURCE_EXHAUSTED" not in str(error)
    return isinstance(error, ValueError) and "Gloo" in str(error)


def lost(error: Exception) -> str:
    """The sentence for a collective operation that failed because another process is gone."""
    cause = " ".join(str(error).split())[:160]
    return (
        f"Process {jax.process_index()} of {jax.process_count()} lost another one ({cause}); start "
        "all of them again, and the run goes on from its last checkpoint."
    )


def is_lead() -> bool:
    return jax.process_index() == 0


def on_lead(action: Callable[[], T]) -> T | None:
    """The result of `action` on the lead, None elsewhere; the others wait until the lead is done.

    Raises:
        ValueError, OSError: `action` raised it on the lead. The other processes raise a ValueError
            that quotes it.
    """
    if jax.process_count() == 1:
        return action()
    result, error = None, None
    if is_lead():
        try:
            result = action()
        except (ValueError, OSError) as raised:
            error = raised
    said = share(f"{type(error).__name__}: {error}".encode() if error else b"")[0]
    if error:
        raise error
    if said:
        raise ValueError(f"Process 0 stopped: {said.decode()}")
    return result


def together(action: Callable[[], T]) -> T:
    """The result of `action` on this process. Every process calls it, and it fails on all or none.

    Raises:
        JobError: on every process of a job if `action` raised on any of them. Without a job, the
            error of `action` itself.
    """
    if jax.process_count() == 1:
        return action()
    result, cause = None, None
    try:
        result = action()
    except Exception as error:
        # A process that is gone cannot be told.
        if of_another(error):
            raise
        cause = error
    for said in share(b"" if cause is None else sentence(cause).encode()):
        if said:
            raise JobError(said.decode()) from cause
    return result


def sentence(error: Exception) -> str:
    """The message to the others about an error of this process; a JobError keeps its sentence."""
    if isinstance(error, JobError):
        return str(error)
    said = " ".join(str(error).split())
    return f"Process {jax.process_index()} stopped: {type(error).__name__}: {said}"


def agreed(value: T) -> T:
    """The value of the lead, passed through JSON, where processes may have different values."""
    return json.loads(share(json.dumps(value).encode())[0])


def each(count: int, make: Callable[[int], Arrays]) -> list[Arrays]:
    """`[make(0), ..., make(count - 1)]`: every process makes a share of the list and gets all of
    it.

    Raises:
        JobError: on every process of a job if one of them could not make its share.
    """
    if jax.process_count() == 1:
        return [make(i) for i in range(count)]
    index, processes = jax.process_index(), jax.process_count()
    own = together(lambda: {i: make(i) for i in range(index, count, processes)})
    found: list[Arrays] = []
    # One item of each process at a time, which bounds the memory of a transfer.
    for first in range(0, count, processes):
        parts = share(pack(own[first + index]) if first + index < count else b"")
        found += [unpack(part) for part in parts if part]
    return found


def share(own: bytes) -> list[bytes]:
    """The bytes of each process, on every process, in the order of the processes."""
    if jax.process_count() == 1:
        return [own]
    # Bytes, because a float64 would lose bits on its way through the devices.
    sizes = multihost_utils.process_allgather(np.asarray([len(own)], np.int32)).reshape(-1)
    padded = np.zeros(max(int(sizes.max()), 1), np.uint8)
    padded[: len(own)] = np.frombuffer(own, np.uint8)
    rows = multihost_utils.process_allgather(padded)
    return [row[:size].tobytes() for row, size in zip(rows, sizes)]


def pack(arrays: Arrays) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def unpack(content: bytes) -> Arrays:
    with np.load(io.BytesIO(content), allow_pickle=False) as stored:
        return dict(stored)
