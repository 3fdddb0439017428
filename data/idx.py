"""IDX files, the format of MNIST and its family (Fashion-MNIST, KMNIST), plain or gzipped.

Format, big-endian (http://yann.lecun.com/exdb/mnist): two zero bytes, a type byte (8: uint8), the
number of dimensions, each dimension as a uint32, then the values, last dimension fastest.
"""

import gzip
import math
import pathlib
import struct
import zlib

import numpy as np

from data.source import Source, check_split, from_array

STEMS = {"train": "train", "test": "t10k"}
UINT8 = 8
CHUNK = 2**24  # bytes that are read at once


def load(split: str, path: str = "") -> Source:
    """Images uint8 (H, W, 1), 256 levels, from a directory of IDX files, with labels if present.

    Args:
        split: "train" (files `train-*`) or "test" (files `t10k-*`).
        path: directory with `train-images-idx3-ubyte`, `train-labels-idx1-ubyte` and the `t10k-`
            pair, each with or without `.gz`; names like `train-images.idx3-ubyte` are accepted too.

    Raises:
        ValueError: for an unknown split, a file that is not IDX of uint8 with the right number of
            bytes, or unequal numbers of labels and images.
        FileNotFoundError: if the directory or its image file is missing.
    """
    check_split("idx", split, STEMS)
    folder = pathlib.Path(path).expanduser()
    if not folder.is_dir():
        raise FileNotFoundError(
            f"No directory {folder}: `path` must name a directory with IDX files such as "
            "train-images-idx3-ubyte.gz."
        )
    image_file = _find(folder, f"{STEMS[split]}-images", "idx3-ubyte")
    if image_file is None:
        raise FileNotFoundError(
            f"No {STEMS[split]}-images-idx3-ubyte or {STEMS[split]}-images-idx3-ubyte.gz in "
            f"{folder}: put the four files of the data set there under their usual names."
        )
    images = read_idx(image_file, ndim=3)[..., None]
    label_file = _find(folder, f"{STEMS[split]}-labels", "idx1-ubyte")
    labels = None if label_file is None else read_idx(label_file, ndim=1)
    if labels is not None and len(labels) != len(images):
        raise ValueError(
            f"{label_file} has {len(labels)} labels but {image_file} has {len(images)} images: the "
            "two must agree; fetch both again from one place."
        )
    return from_array(f"idx/{folder.resolve().name}", split, images, labels, levels=256)


def _find(folder: pathlib.Path, stem: str, kind: str) -> pathlib.Path | None:
    names = [f"{stem}{mark}{kind}{end}" for mark in "-." for end in ("", ".gz")]
    return next((folder / name for name in names if (folder / name).is_file()), None)


def read_idx(file: pathlib.Path, ndim: int) -> np.ndarray:
    """Read the uint8 array with `ndim` dimensions from an IDX file.

    Raises:
        ValueError: for a damaged gzip file, a wrong magic number, or too few or too many bytes.
    """
    file = pathlib.Path(file)
    opened = gzip.open if file.suffix == ".gz" else open
    header, expected = 4 + 4 * ndim, bytes([0, 0, UINT8, ndim])
    try:
        with opened(file, "rb") as stream:
            head = stream.read(header)
            if head[:4] != expected:
                raise ValueError(
                    f"{file} begins with the bytes {head[:4].hex(' ') or '(none)'}: an IDX file of "
                    f"uint8 with {ndim} dimension(s) begins with {expected.hex(' ')}; is it the "
                    "right file?"
                )
            if len(head) < header:
                raise ValueError(f"{file} is cut short inside its header: fetch it again.")
            shape = struct.unpack(f">{ndim}I", head[4:])
            content = _read(stream, math.prod(shape))
    except (EOFError, OSError, zlib.error) as error:
        raise ValueError(f"{file} is damaged or cut short ({error}): fetch it again.") from error
    if len(content) != math.prod(shape):
        fault = "is cut short" if len(content) < math.prod(shape) else "is too long"
        raise ValueError(
            f"{file} {fault}: it announces shape {shape}, {math.prod(shape)} bytes, and holds "
            f"{len(content)}{' or more' if fault == 'is too long' else ''}; fetch it again."
        )
    return np.frombuffer(content, np.uint8).reshape(shape)


def _read(stream, size: int) -> bytes:
    """Read `size` bytes, or fewer at the end of the stream, and one more if the stream is longer.

    The stream is read in chunks, so that no file can fill the memory by the size it announces or by
    the size to which it unpacks.
    """
    parts, left = [], size + 1
    while left and (part := stream.read(min(left, CHUNK))):
        parts.append(part)
        left -= len(part)
    return b"".join(parts)
