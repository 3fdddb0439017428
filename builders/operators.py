"""The operators of linear measurements that a config names, and its masks."""

from pathlib import Path

import numpy as np
from ml_collections import ConfigDict
from PIL import Image

import operators
from operators import LinearOperator, random_lines

MASKS = ("box", "left", "top", "half")


def build_operator(section: ConfigDict, shape: tuple[int, ...]) -> LinearOperator:
    """The operator that the section names, for examples of that shape.

    Raises:
        ValueError: for a name that is not known, or an operator that does not take such examples.
    """
    make = {
        "mask": lambda: operators.OPERATORS["mask"](shape, build_mask(section.mask, shape)),
        "blur": lambda: operators.OPERATORS["blur"](shape, section.blur_std),
        "downsample": lambda: operators.OPERATORS["downsample"](shape, section.factor),
        "fourier": lambda: operators.OPERATORS["fourier"](shape, build_lines(section.lines, shape)),
        "radon": lambda: operators.OPERATORS["radon"](shape, section.angles),
        "greyscale": lambda: operators.OPERATORS["greyscale"](shape),
    }
    if section.operator not in make:
        raise ValueError(
            f"guidance.operator is {section.operator!r}; it must be one of {', '.join(make)}."
        )
    return make[section.operator]()


def build_lines(lines: int, shape: tuple[int, ...]) -> np.ndarray:
    """Lines of the Fourier transform, half of them the lowest; always the same ones."""
    width = shape[1] if len(shape) == 3 else lines
    return random_lines(width, lines, (lines + 1) // 2, np.random.default_rng(0))


def build_mask(name: str, shape: tuple[int, ...], key: str = "guidance.mask") -> np.ndarray:
    """What is kept, ones and zeros `(H, W)`: all but a box in the middle, the left or the upper
    half, a random half of the pixels; or a file, `.npy` or a picture of black and white. `key` is
    where the config says so.

    Raises:
        ValueError: for a file that is not there or does not hold that, or data that are no images.
    """
    if len(shape) != 3:
        raise ValueError(
            f"{key} is {name!r} and examples have shape {tuple(shape)}; masks of a config are for "
            "images (H, W, C): take operators.mask in Python for others."
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
        keep = read_mask(key, Path(name))
    return keep


def read_mask(key: str, file: Path) -> np.ndarray:
    """Ones and zeros of a file; white, in a picture, is what is kept."""
    if not file.is_file():
        raise ValueError(
            f"{key} is {str(file)!r}, which is neither a file nor one of {', '.join(MASKS)}."
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
