"""Files of `torch.save`, read without torch and without running code from the file.

Since release 1.6 such a file is a zip archive: `<name>/data.pkl` is a pickle in which each tensor
is a view of a storage, and `<name>/data/<key>` are the bytes of the storages. Before 1.6 a file had
five pickles in a row (a magic number, a version, facts about the machine, the object, the keys of
the storages), followed by the storages, each after its length. A pickle may call any function of
any module. This reader makes only tensors and ordered dicts; every other class or function becomes
a `Foreign`, which does nothing.
"""

import collections
import io
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.lib.stride_tricks import as_strided

from data.pickle_depth import check_depth

ZIP_MAGIC = b"PK\x03\x04"
# First bytes of a file before 1.6: a pickle of protocol 2 with torch's magic number.
LEGACY_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
LEGACY_VERSION = 1001
DTYPES = {
    "DoubleStorage": "<f8",
    "FloatStorage": "<f4",
    "HalfStorage": "<f2",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "?",
}


class Foreign:
    """A placeholder for an object of a class that is not read; its methods do nothing."""

    def __init__(self, *args: Any, **kwargs: Any):
        pass

    def __call__(self, *args: Any, **kwargs: Any) -> "Foreign":
        return self

    def __setstate__(self, state: Any) -> None:
        pass

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    append = extend = add = update = __call__


def load(path: Path) -> Any:
    """Return the saved object, with numpy arrays in place of tensors.

    Raises:
        ValueError: the file is cut short or damaged, or was not written by `torch.save`.
        OSError: the file cannot be opened.
    """
    try:
        with open(path, "rb") as file:
            if file.read(len(LEGACY_MAGIC)) == LEGACY_MAGIC:
                return _load_legacy(file)
        with zipfile.ZipFile(path) as archive:
            return _ZipUnpickler(archive).load()
    except (zipfile.BadZipFile, pickle.UnpicklingError, EOFError) as error:
        raise ValueError(f"{path} is cut short or damaged ({error}): copy it again.") from error
    except OSError:
        raise
    except Exception as error:
        raise ValueError(
            f"{path} cannot be read as a file of torch.save ({type(error).__name__}: {error})."
        ) from error


class _Unpickler(pickle.Unpickler):
    """An unpickler that makes arrays for tensors and placeholders for all else. The depth of the
    pickle is checked first."""

    def __init__(self, file: BinaryIO):
        check_depth(file)
        super().__init__(file)

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name in DTYPES:
            return DTYPES[name]
        known = {
            ("collections", "OrderedDict"): collections.OrderedDict,
            ("torch._utils", "_rebuild_tensor"): _view,
            ("torch._utils", "_rebuild_tensor_v2"): _view,
            ("torch._utils", "_rebuild_parameter"): lambda tensor, *_: tensor,
        }
        return known.get((module, name), Foreign)

    def persistent_load(self, identity: Any) -> Any:
        raise ValueError("there is a storage where none belongs")


class _ZipUnpickler(_Unpickler):
    """The unpickler of an archive; a storage is read when the first tensor needs it."""

    def __init__(self, archive: zipfile.ZipFile):
        name = next((n for n in archive.namelist() if n.endswith("/data.pkl")), None)
        if name is None:
            raise ValueError("the zip file holds no data.pkl")
        super().__init__(io.BytesIO(archive.read(name)))
        self._archive, self._folder = archive, name.removesuffix("data.pkl")
        self._storages: dict[str, np.ndarray] = {}

    def persistent_load(self, identity: Any) -> np.ndarray:
        """Return the storage `("storage", type, key, device, length)`; tensors may share one."""
        _, dtype, key, _, length = identity
        _check_dtype(dtype, key)
        if key not in self._storages:
            content = self._archive.read(f"{self._folder}data/{key}")
            self._storages[key] = np.frombuffer(content, dtype, count=length)
        return self._storages[key]


class _LegacyUnpickler(_Unpickler):
    """The unpickler of the object in an old file; storages are uninitialised until `fill`."""

    def __init__(self, file: BinaryIO):
        super().__init__(file)
        self._file, self._room = file, os.fstat(file.fileno()).st_size
        self._storages: dict[str, np.ndarray] = {}

    def persistent_load(self, identity: Any) -> Any:
        """Return the storage `("storage", type, key, device, length, view)`, or a Foreign class."""
        if identity[0] == "module":
            return Foreign
        _, dtype, key, _, length, view = identity
        _check_dtype(dtype, key)
        if view is not None:
            raise ValueError(f"storage {key} is a view of another, as before torch 0.4")
        if key not in self._storages:
            # Memory is allocated before the bytes are read, but never more than the file's size.
            self._room -= length * np.dtype(dtype).itemsize
            if length < 0 or self._room < 0:
                raise EOFError(f"storage {key} of {length} numbers is longer than the file")
            self._storages[key] = np.empty(length, dtype)
        return self._storages[key]

    def fill(self, keys: list[str]) -> None:
        """Read the storages, which follow in the file in the order of `keys`."""
        if sorted(keys) != sorted(self._storages):
            raise ValueError("the storages in the file are not those of its tensors")
        for key in keys:
            storage = self._storages[key]
            length = int.from_bytes(self._file.read(8), "little")
            if length != storage.size or self._file.readinto(storage.data) != storage.nbytes:
                raise EOFError(f"storage {key} is not of {storage.size} numbers")


def _load_legacy(file: BinaryIO) -> Any:
    """Read the object of an old file, positioned after its magic number."""
    version, machine = _Unpickler(file).load(), _Unpickler(file).load()
    if version != LEGACY_VERSION or not machine.get("little_endian"):
        raise ValueError(f"it is of version {version}, or of a machine that puts large bytes first")
    unpickler = _LegacyUnpickler(file)
    found = unpickler.load()
    unpickler.fill(_Unpickler(file).load())
    return found


def _check_dtype(dtype: Any, key: str) -> None:
    if dtype not in DTYPES.values():
        raise ValueError(f"storage {key} has a number format that is not read here")


def _view(storage: np.ndarray, offset: int, shape: tuple, strides: tuple, *_: Any) -> np.ndarray:
    """Return a tensor as a view of its storage, after a check that it lies inside."""
    last = offset + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
    if min(offset, *shape, *strides, 0) < 0 or (0 not in shape and last >= storage.size):
        raise ValueError(f"a tensor of shape {shape} reaches beyond its storage")
    return as_strided(
        storage[offset:], shape, [step * storage.itemsize for step in strides], writeable=False
    )
