"""What is known of data that are not read: to sample from a network, or to count its parameters."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from data.resize import as_pair
from data.source import Source

# Of data whose section does not say the size, as they come.
SHAPES = {
    "digits": (8, 8, 1),
    "cifar10": (32, 32, 3),
    "cifar100": (32, 32, 3),
    "svhn_cropped": (32, 32, 3),
}
CHANNELS = 3


def stated_shape(section: Mapping[str, Any]) -> tuple[int, ...] | None:
    """(H, W, C) that the section `data` of a config states, or None where only the data know it.

    Colour, where the channels are not said; without a size that of a well-known data set.
    """
    size = as_pair("image_size", section.get("image_size", ()))
    if size:
        return (*size, section.get("num_channels", 0) or CHANNELS)
    name = section["name"] if section["dataset"] == "tfds" else section["dataset"]
    return SHAPES.get(name.partition(":")[0])


def unread(name: str, split: str, shape: tuple[int, ...], why: str, levels: int = 256) -> Source:
    """A source of 8-bit images that has a shape and nothing to fetch: it says why instead."""

    def fetch(indices: np.ndarray) -> np.ndarray:
        raise FileNotFoundError(why)

    return Source(name, split, fetch, None, 1, shape, levels)
