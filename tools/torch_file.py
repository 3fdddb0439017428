"""Files of `torch.save`, read without torch and without running what is in them.

Since release 1.6 such a file is a zip archive: `<name>/data.pkl` is a pickle in which each tensor
is a view of a storage, and `<name>/data/<key>` are the bytes of the storages. A pickle may name any
function of any module to be called; here only tensors and ordered dicts are made, and whatever else
is named becomes a `Foreign`, which does nothing.
"""

import collections
import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

ZIP_MAGIC = b"PK\x03\x04"
# How a pickle of protocol 2 begins whose first object is torch's magic number, as before 1.6.
LEGACY_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
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
    """Stands for an object of a class that is not read; whatever is done to it has no effect."""

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
    """The object that was saved, with numpy arrays for tensors.

    Raises:
        ValueError: where the file is cut short, damaged, of an old torch, or not such a file.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return _Unpickler(archive).load()
    except zipfile.BadZipFile as error:
        raise ValueError(f"{path} is cut short or damaged ({error}): copy it again.") from error
    except OSError:
        raise
    except Exception as error:
        raise ValueError(
            f"{path} cannot be read as a file of torch.save ({type(error).__name__}: {error})."
        ) from error


class _Unpickler(pickle.Unpickler):
    """Makes arrays for tensors, and nothing of what else the pickle asks for."""

    def __init__(self, archive: zipfile.ZipFile):
        name = next((n for n in archive.namelist() if n.endswith("/data.pkl")), None)
        if name is None:
            raise ValueError("the zip file holds no data.pkl")
        super().__init__(io.BytesIO(archive.read(name)))
        self._archive, self._folder = archive, name.removesuffix("data.pkl")
        self._storages: dict[str, np.ndarray] = {}

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name in DTYPES:
            return DTYPES[name]
        known = {
            ("collections", "OrderedDict"): collections.OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2"): _view,
            ("torch._utils", "_rebuild_parameter"): lambda tensor, *_: tensor,
        }
        return known.get((module, name), Foreign)

    def persistent_load(self, identity: Any) -> np.ndarray:
        """The storage `("storage", type, key, device, length)`; several tensors may share one."""
        _, dtype, key, _, length = identity
        if dtype not in DTYPES.values():
            raise ValueError(f"storage {key} has a number format that is not read here")
        if key not in self._storages:
            content = self._archive.read(f"{self._folder}data/{key}")
            self._storages[key] = np.frombuffer(content, dtype, count=length)
        return self._storages[key]


def _view(storage: np.ndarray, offset: int, shape: tuple, strides: tuple, *_: Any) -> np.ndarray:
    """A tensor: a view of its storage, checked to lie inside."""
    last = offset + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
    if min(offset, *shape, *strides, 0) < 0 or (0 not in shape and last >= storage.size):
        raise ValueError(f"a tensor of shape {shape} reaches beyond its storage")
    return as_strided(
        storage[offset:], shape, [step * storage.itemsize for step in strides], writeable=False
    )
