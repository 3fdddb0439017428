"""Data: sources by name, the order of examples, batches, and the scaling for the model."""

from data import digits, idx, image_folder, npz, tfds
from data.loader import Loader
from data.order import batch_indices, host_slice, padded_batches
from data.scaling import Scaler, random_flip
from data.source import Source, from_array, unknown
from data.stated import stated_shape, unread

SOURCES = {
    "digits": digits.load,
    "tfds": tfds.load,
    "image_folder": image_folder.load,
    "idx": idx.load,
    "npz": npz.load,
}


def load(name: str, split: str, /, **kwargs) -> Source:
    """Load one split of the data `name`; `kwargs` are those of the loader's own `load`.

    Raises:
        ValueError: for a name that is not in SOURCES, and as the loader does.
    """
    if name not in SOURCES:
        raise ValueError(unknown("data", name, SOURCES))
    return SOURCES[name](split, **kwargs)


__all__ = [
    "SOURCES",
    "Loader",
    "Scaler",
    "Source",
    "batch_indices",
    "from_array",
    "host_slice",
    "load",
    "padded_batches",
    "random_flip",
    "stated_shape",
    "unread",
]
