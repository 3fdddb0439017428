"""Shapes of data that are not read, to sample from a network or to count its parameters."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from data.resize import as_pair
from data.source import Source

# Original shapes of data whose section of the config does not state a size.
SHAPES = {
    "digits": (8, 8, 1),
    "cifar10": (32, 32, 3),
    "cifar100": (32, 32, 3),
    "svhn_cropped": (32, 32, 3),
}
CHANNELS = 3


def stated_shape(section: Mapping[str, Any]) -> tuple[int, ...] | None:
    """Return (H, W, C) from the section `data` of a config, or None if only the data know it.

    Without `num_channels` images are in colour. Without `image_size` the shape is that of a
    well-known data set.
    """
    size = as_pair("image_size", section.get("image_size", ()))
    if size:
        return (*size, section.get("num_channels", 0) or CHANNELS)
    name = section["name"] if section["dataset"] == "tfds" else section["dataset"]
    return SHAPES.get(name.partition(":")[0])


def unread(name: str, split: str, shape: tuple[int, ...], why: str, levels: int = 256) -> Source:
    """A source of images with a shape but no data; `fetch` raises FileNotFoundError with `why`."""

    def fetch(indices: np.ndarray) -> np.ndarray:
        raise FileNotFoundError(why)

    return Source(name, split, fetch, None, 1, shape, levels)
