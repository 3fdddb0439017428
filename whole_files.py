"""Files that are written whole or not at all: at any moment there is the old file or the new one.

A kill, a full disk or an error during a write leaves the old file.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np


@contextlib.contextmanager
def writing(path: str | Path) -> Iterator[BinaryIO]:
    """A context with a binary file, which replaces `path` at the end, when all of it is on disk.

    The content is written beside `path`, to `<name>.<process>.part`, which only a kill leaves
    behind. If `path` is not a regular file, such as a pipe, the content is written to it directly.

    Raises:
        OSError: with a sentence, if the file cannot be written; the old file is whole.
    """
    place = Path(os.path.realpath(path))  # the target, if `path` is a link
    if place.exists() and not place.is_file():
        with open(place, "wb") as file:
            yield file
        return
    part = place.with_name(f"{place.name}.{os.getpid()}.part")
    try:
        with open(part, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, place)
    except BaseException as error:
        with contextlib.suppress(OSError):
            part.unlink()
        if isinstance(error, OSError):
            before = "; the file that was there before is whole" if place.exists() else ""
            raise type(error)(
                f"{path} could not be written ({error.strerror or error}){before}. Make room "
                "there, or mend the folder or its permissions."
            ) from error
        raise


def put(path: str | Path, content: str | bytes) -> None:
    """Write bytes, or text as UTF-8. Raises as `writing`."""
    with writing(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def put_arrays(path: str | Path, **arrays) -> None:
    """Write arrays by name as an npz file; `path` is the full name. Raises as `writing`."""
    with writing(path) as file:
        np.savez(file, **arrays)
