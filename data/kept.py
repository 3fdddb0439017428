"""What is slow to read from many files is kept between runs in the user's cache folder.

A file is told by its stamp, a hash of its path, its size, and the times of its last change. What
was kept is read again if its file is damaged or missing, and nothing is kept if the folder cannot
be written; then the files themselves are read, as at the first time.
"""

import contextlib
import hashlib
import os
import time
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from whole_files import put_arrays

HOME = "~/.cache/scorefield/data"
LEAST = 1000  # examples from which keeping something saves more than a fraction of a second
# A file that changes twice within a tick of the clock would have one stamp.
SETTLED = 2 * 10**9  # nanoseconds after which a file's times tell it from a later change
DAMAGED = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error)


def stamp(path: str | os.PathLike) -> int:
    """A hash of a file's path, size and times, 64 bits; 0 for a file that has changed just now or
    cannot be looked at, of which nothing may be kept.

    The time of the last change of the file's entry is a part of it: it changes too where a copy
    keeps the time of modification.
    """
    try:
        facts = os.stat(path)
    except OSError:
        return 0
    if facts.st_ctime_ns > time.time_ns() - SETTLED:
        return 0
    text = f"{facts.st_size} {facts.st_mtime_ns} {facts.st_ctime_ns} ".encode() + os.fsencode(path)
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest()) or 1


def place_of(kind: str, *names: str | os.PathLike) -> Path:
    """The file in which something is kept of what has these names.

    Raises:
        RuntimeError: the user has no home folder.
    """
    digest = hashlib.sha256(b"\0".join(os.fsencode(name) for name in names)).hexdigest()[:16]
    return Path(HOME).expanduser() / f"{kind}-{digest}.npz"


def recalled(kind: str, names: Sequence[str | os.PathLike]) -> dict[str, np.ndarray]:
    """The arrays that `keep` wrote; none if they are missing or damaged."""
    try:
        with np.load(place_of(kind, *names), allow_pickle=False) as stored:
            return dict(stored)
    except (*DAMAGED, RuntimeError):
        return {}


def keep(kind: str, names: Sequence[str | os.PathLike], **arrays: np.ndarray) -> None:
    """Write arrays, in a folder of this user alone; nothing is written where that fails."""
    with contextlib.suppress(OSError, RuntimeError):
        place = place_of(kind, *names)
        os.makedirs(place.parent, mode=0o700, exist_ok=True)
        put_arrays(place, **arrays)
