"""Jobs of several processes: the exchange of results and errors between them.

Every process runs the same program. Process 0, the lead, writes the files of which there is one.
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
    """The processes of a job did not connect, lost one of them, or were told that one of them
    failed. The message is one sentence."""


def of_another(error: Exception) -> bool:
    """Whether `error`, from a collective operation, means that another process is gone. On CPUs jax
    raises this error of the library Gloo as a plain ValueError."""
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
    """Call `action` on the lead; the others wait until it is done. Returns its result on the lead
    and None elsewhere.

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
    """Call `action` on every process and return the result of this one. It fails on all or none.

    Raises:
        JobError: on every process of a job, if `action` raised an exception on any of them. A
            single process raises the exception itself.
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
    """The sentence in which the other processes are told of an error of this process. A JobError,
    which all processes raise, keeps its own sentence."""
    if isinstance(error, JobError):
        return str(error)
    said = " ".join(str(error).split())
    return f"Process {jax.process_index()} stopped: {type(error).__name__}: {said}"


def agreed(value: T) -> T:
    """The lead's `value`, on every process, after a round trip through JSON. It is for values that
    processes may see differently, such as the contents of a folder."""
    return json.loads(share(json.dumps(value).encode())[0])


def each(count: int, make: Callable[[int], Arrays]) -> list[Arrays]:
    """`[make(0), ..., make(count - 1)]` on every process; each process computes a share of them.

    Raises:
        JobError: on every process of a job, if `make` raised an exception on one of them.
    """
    if jax.process_count() == 1:
        return [make(i) for i in range(count)]
    index, processes = jax.process_index(), jax.process_count()
    own = together(lambda: {i: make(i) for i in range(index, count, processes)})
    found: list[Arrays] = []
    # One item of each process at a time, which bounds the bytes that are sent at once.
    for first in range(0, count, processes):
        parts = share(pack(own[first + index]) if first + index < count else b"")
        found += [unpack(part) for part in parts if part]
    return found


def share(own: bytes) -> list[bytes]:
    """The bytes `own` of every process, on every process, in the order of the processes."""
    if jax.process_count() == 1:
        return [own]
    # Bytes, because the devices would truncate a float64.
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
