"""Plain arrays of an `.npz` file, each read by name, whole or block by block.

The size in an array's header is compared with the size of its archive member before memory is
allocated for the array.
"""

import contextlib
import math
import pathlib
import zipfile
import zlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.lib import format as npy

BROKEN = (
    ValueError,
    TypeError,
    OSError,
    EOFError,
    KeyError,
    zipfile.BadZipFile,
    zlib.error,
    # zipfile raises these for an encrypted member and for an unknown compression.
    RuntimeError,
    NotImplementedError,
)


BLOCK = 2**22  # bytes


class Header(NamedTuple):
    """Shape, dtype and order of an array, known before the array is read."""

    shape: tuple[int, ...]
    dtype: np.dtype
    fortran_order: bool


def headers(file: pathlib.Path) -> dict[str, Header]:
    """Return shape and dtype of all arrays of a file by name, without reading the arrays.

    Raises:
        ValueError: for a file that is not an `.npz` of plain arrays; the sentence names it.
    """
    with _named(file), zipfile.ZipFile(file) as archive:
        found = {}
        for info in archive.infolist():
            if info.filename.endswith(".npy"):
                with archive.open(info) as stream:
                    found[info.filename.removesuffix(".npy")] = _header(info, stream)
        return found


def array(file: pathlib.Path, name: str) -> np.ndarray:
    """Read one array of a file.

    Raises:
        ValueError: as `headers`, and if the array is missing, damaged or cut short.
    """
    with _named(file), zipfile.ZipFile(file) as archive:
        info = archive.getinfo(f"{name}.npy")
        with archive.open(info) as stream:
            _header(info, stream)
        with archive.open(info) as stream:
            # Pickles are refused: a data file must not be able to run code.
            return npy.read_array(stream, allow_pickle=False)


def blocks(file: pathlib.Path, name: str) -> Iterator[np.ndarray]:
    """Yield an array in blocks of consecutive rows, of `BLOCK` bytes or one row.

    The file's checksum of the array is compared at its end. An array in Fortran's order, whose rows
    do not lie together, is one block.

    Raises:
        ValueError: as `array`.
    """
    with _named(file), zipfile.ZipFile(file) as archive:
        info = archive.getinfo(f"{name}.npy")
        with archive.open(info) as stream:
            shape, dtype, fortran_order = _header(info, stream)
            if fortran_order:
                yield array(file, name)
                return
            width = math.prod(shape[1:]) * dtype.itemsize
            step = max(1, BLOCK // max(1, width))
            for first in range(0, shape[0], step):
                count = min(step, shape[0] - first)
                content = stream.read(count * width)
                yield np.frombuffer(content, dtype).reshape(count, *shape[1:])


def _header(info: zipfile.ZipInfo, stream) -> Header:
    version = npy.read_magic(stream)
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, fortran_order, dtype = read(stream)
    if dtype.hasobject:
        raise ValueError(f"{info.filename} holds Python objects, not numbers")
    announced, held = math.prod(shape) * dtype.itemsize, info.file_size - stream.tell()
    if announced != held:
        raise ValueError(
            f"{info.filename} announces {dtype} of shape {shape}, {announced} bytes, and holds "
            f"{held}"
        )
    return Header(shape, dtype, fortran_order)


@contextlib.contextmanager
def _named(file: pathlib.Path) -> Iterator[None]:
    """Turn the errors of a broken file into a ValueError that names the file."""
    try:
        yield
    except BROKEN as error:
        raise ValueError(
            f"{file} is not a whole .npz file of plain arrays ({error}): write it with "
            "numpy.savez(path, x=images)."
        ) from error
