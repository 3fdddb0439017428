"""The sizes and channels of all files of an image folder, each header read once.

A header takes 0.1 ms, on a network file system some milliseconds. They are therefore kept, see
`data.kept`, and only those of files that are new or have changed are read again.
"""

import os
import pathlib

import numpy as np

from data import kept
from data.image_file import read_header
from data.workers import shared_out


def read_headers(
    root: pathlib.Path, split: str, files: list[str], workers: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """Heights and widths, int32 (N, 2), and channels, int32 (N,), of the files below a folder.

    Args:
        split: the files of another split are kept apart.
        workers: threads that read, see `data.workers.number_of`.

    Raises:
        ValueError: as `read_header`, for the first file that is no single image of 8 bits a
            channel; the headers that have been read are kept.
    """
    found = np.zeros((len(files), 3), np.int32)
    place, stamps = root.resolve(), None
    names = ("headers", (place, split))
    if len(files) >= kept.LEAST:
        stamps = np.array([kept.stamp(os.path.join(place, file)) for file in files], np.uint64)
        recall(found, stamps, kept.recalled(*names))

    def read(rows: np.ndarray) -> np.ndarray:
        for row in rows:
            (height, width), channels = read_header(root / files[row])
            found[row] = height, width, channels
        return found[rows]

    missing = np.flatnonzero(found[:, 0] == 0)
    try:
        shared_out(read, (3,), np.int32, workers)(missing)
    finally:
        if stamps is not None and stamps[missing].any():
            whole = np.flatnonzero((stamps > 0) & (found[:, 0] > 0))
            whole = whole[np.argsort(stamps[whole])]
            kept.keep(*names, stamps=stamps[whole], headers=found[whole])
    return found[:, :2], found[:, 2]


def recall(found: np.ndarray, stamps: np.ndarray, stored: dict[str, np.ndarray]) -> None:
    """Write the stored headers of files with the same stamp into the rows of `found`."""
    known, headers = stored.get("stamps"), stored.get("headers")
    if known is None or headers is None or not len(known) or headers.shape != (len(known), 3):
        return
    places = np.minimum(np.searchsorted(known, stamps), len(known) - 1)
    same = (known[places] == stamps) & (stamps > 0)
    found[same] = headers[places[same]]
