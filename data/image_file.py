"""One image file: its size and channels from the header, its pixels as an array."""

import contextlib
import pathlib

import numpy as np
from PIL import Image, ImageOps

# What the pixels of Pillow's modes amount to; anything else (16 bits, floats) is refused.
CHANNELS = {"1": 1, "L": 1, "LA": 2, "P": 3, "RGB": 3, "CMYK": 3, "YCbCr": 3, "RGBA": 4}
MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}


def read_header(file: pathlib.Path) -> tuple[tuple[int, int], int]:
    """((H, W), channels) without decoding the pixels; a camera's note of which side is up counts.

    Raises:
        ValueError: if the file is no image of 8 bits a channel; the sentence names it.
    """
    with _opened(file) as image:
        see_through = image.mode == "P" and "transparency" in image.info
        return (image.height, image.width), 4 if see_through else CHANNELS[image.mode]


def read_pixels(file: pathlib.Path, channels: int) -> np.ndarray:
    """The pixels, uint8 (H, W, channels), converted if the file has another number of channels.

    Raises:
        ValueError: if the file is damaged or no image of 8 bits a channel; the sentence names it.
    """
    with _opened(file) as image:
        pixels = np.asarray(image.convert(MODES[channels]))
    return pixels[..., None] if pixels.ndim == 2 else pixels


@contextlib.contextmanager
def _opened(file: pathlib.Path):
    try:
        with Image.open(file) as image:
            if image.mode not in CHANNELS:
                raise ValueError(f"mode {image.mode} of Pillow, not 8 bits a channel")
            # Only JPEG: to look for the note in a PNG would decode the whole file.
            if image.format in ("JPEG", "MPO"):
                ImageOps.exif_transpose(image, in_place=True)
            yield image
    # Pillow reports a broken PNG as SyntaxError, a bomb as an error of its own.
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(
            f"{file} cannot be read as an image ({error}): remove or replace it."
        ) from error
