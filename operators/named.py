"""Masks and matrices that a config names: by a word, or by a file."""

from pathlib import Path

import numpy as np
from PIL import Image

MASKS = ("box", "left", "top", "half")


def named_mask(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """A mask of ones and zeros `(H, W)`, one where a pixel is kept. A name keeps all but a box in
    the middle, the left or the upper half, or a random half of the pixels. A file is a `.npy` file,
    or a picture in black and white.

    Raises:
        ValueError: for a file that is not there or does not hold that, or data that are no images.
    """
    if len(shape) != 3:
        raise ValueError(
            f"keep is {name!r} and examples have shape {tuple(shape)}; masks with a name are for "
            "images (H, W, C): give an array of that shape in Python."
        )
    height, width, _ = shape
    keep = np.zeros((height, width), int)
    if name == "box":
        keep[:] = 1
        keep[height // 4 : -(height // 4), width // 4 : -(width // 4)] = 0
    elif name == "left":
        keep[:, : width // 2] = 1
    elif name == "top":
        keep[: height // 2] = 1
    elif name == "half":
        keep = np.random.default_rng(0).permutation(np.arange(height * width) % 2)
        keep = keep.reshape(height, width)
    else:
        keep = read_mask(Path(name))
    return keep


def read_mask(file: Path) -> np.ndarray:
    """The ones and zeros of a file. White pixels of a picture are kept."""
    if not file.is_file():
        raise ValueError(
            f"keep is {str(file)!r}, which is neither a file nor one of {', '.join(MASKS)}."
        )
    if file.suffix == ".npy":
        return np.load(file, allow_pickle=False)
    grey = np.asarray(Image.open(file).convert("L"))
    if not np.all((grey == 0) | (grey == 255)):
        wrong = grey[(grey != 0) & (grey != 255)][0]
        raise ValueError(
            f"{file} has the grey value {wrong}; a mask is black and white, 0 and 255, without "
            "levels between: save it as PNG and without smoothing."
        )
    return (grey == 255).astype(int)


def read_matrix(file: str) -> np.ndarray:
    """The matrix of a `.npy` file."""
    if not Path(file).is_file():
        raise ValueError(f"A is {file!r}, which is no file; name a .npy file with the matrix.")
    return np.load(file, allow_pickle=False)
