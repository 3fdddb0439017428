"""A user's own pictures, converted to the size and the channels of a model."""

from pathlib import Path

import numpy as np

from data.folder_files import SUFFIXES, listed
from data.image_file import MODES, read_picture
from data.resize import fit
from data.source import Source


def read_pictures(path: Path, shape: tuple[int, ...]) -> Source:
    """Return one picture, or all of a folder in the order of their names, with 256 levels.

    The largest central part with the model's aspect is resized, antialiased. Grey and colour are
    converted to the model's channels, and alpha is dropped.

    Args:
        shape: (H, W, C) of the model's examples.

    Raises:
        ValueError: there is no such file or folder, the folder has no picture, or the model's
            examples are no images; from `fetch`, a file is damaged.
    """
    if len(shape) != 3 or shape[-1] not in MODES:
        raise ValueError(
            f"{path} should be pictures, and the model's examples have shape {tuple(shape)}; "
            f"pictures are (H, W, C) with C one of {', '.join(map(str, MODES))}."
        )
    if path.is_dir():
        files = [path / name for name in listed(path)]
    else:
        files = [path] if path.is_file() and path.suffix.lower() in SUFFIXES else []
    if not files:
        raise ValueError(
            f"{path} is neither a split, 'train' or 'test', nor a picture, nor a folder with any "
            f"({', '.join(sorted(SUFFIXES))})."
        )
    height, width, channels = shape

    def fetch(indices: np.ndarray) -> np.ndarray:
        return np.stack([fit(read_picture(files[i], channels), (height, width)) for i in indices])

    return Source(str(path), "pictures", fetch, None, len(files), shape, 256)
