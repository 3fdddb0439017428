"""Write files as `torch.save` does, byte by byte and without torch."""

import pickle
import zipfile

import numpy as np

MAGIC_NUMBER, VERSION = 0x1950A86A20F9469CFC6C, 1001
MACHINE = {"protocol_version": VERSION, "little_endian": True}
KINDS = {"f4": "FloatStorage", "f8": "DoubleStorage", "i8": "LongStorage", "i4": "IntStorage"}


def part(value):
    """Return the opcodes of a value in a pickle of protocol 2, to be put into another pickle."""
    return pickle.dumps(value, 2)[2:-1]


def tensor(kind, length, offset, shape, strides, key="a", tail=()):
    """Return the pickle of one tensor, a view of the storage `key`."""
    return b"\x80\x02" + view(kind, length, offset, shape, strides, key, tail) + b"."


def view(kind, length, offset, shape, strides, key="a", tail=()):
    # GLOBAL, MARK, the storage's identity, TUPLE, BINPERSID; the other arguments, TUPLE, REDUCE.
    storage = b"(" + part("storage") + f"ctorch\n{kind}\n".encode()
    storage += b"".join(map(part, (key, "cpu", length, *tail))) + b"tQ"
    rest = b"".join(map(part, (offset, shape, strides, False, None)))
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + rest + b"tR"


def saved(folder, content, **storages):
    """Write a file of torch 1.6 or later with this pickle and these storages."""
    path = folder / "file.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("file/data.pkl", content)
        for name, storage in storages.items():
            archive.writestr(f"file/data/{name}", storage.tobytes())
    return path


def saved_before(path, content, storages, machine=MACHINE):
    """Write a file of torch before 1.6."""
    with open(path, "wb") as file:
        for value in (MAGIC_NUMBER, VERSION, machine):
            file.write(pickle.dumps(value, 2))
        file.write(content)
        file.write(pickle.dumps(list(storages), 2))
        for storage in storages.values():
            file.write(storage.size.to_bytes(8, "little"))
            storage.tofile(file)
    return path


def state_dict_before(path, state):
    """Write a file of torch before 1.6 with a dict of arrays, each with a storage of its own."""
    items = [part(name) + whole(name, array) for name, array in state.items()]
    content = b"\x80\x02}(" + b"".join(items) + b"u."
    return saved_before(path, content, state)


def whole(name, array):
    strides = tuple(step // array.itemsize for step in np.ascontiguousarray(array).strides)
    kind = KINDS[array.dtype.str[1:]]
    return view(kind, array.size, 0, array.shape, strides, name, tail=(None,))
