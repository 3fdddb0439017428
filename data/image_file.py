"""One image file: its size and channels from the header, its pixels as an array.

Images are turned upright by their EXIF orientation in every format. Files that an array of 8 bits a
channel cannot hold are refused: files with 16 bits a channel, and files of several pages or frames.
"""

import contextlib
import os
import pathlib
import struct

import numpy as np
from PIL import ExifTags, Image, ImageOps

from data.resize import pixels

# Channels of Pillow's modes; other modes (16 bits of grey, floats) are refused.
CHANNELS = {"1": 1, "L": 1, "LA": 2, "P": 3, "RGB": 3, "CMYK": 3, "YCbCr": 3, "RGBA": 4}
MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
# Formats whose further frames are other pictures. MPO, which cameras write, is not among them: its
# second frame is a preview of the first.
OF_SEVERAL = ("TIFF", "GIF", "WEBP", "PNG", "AVIF")
BITS_PER_SAMPLE = 258  # a tag of TIFF


def read_header(file: pathlib.Path) -> tuple[tuple[int, int], int]:
    """Return ((H, W), channels) of the upright image; pixels are decoded only if it must be turned.

    Raises:
        ValueError: if the file is no single image of 8 bits a channel; the sentence names it.
    """
    with _opened(file) as image:
        see_through = image.mode == "P" and "transparency" in image.info
        return (image.height, image.width), 4 if see_through else CHANNELS[image.mode]


def read_picture(file: pathlib.Path, channels: int) -> Image.Image:
    """Return the decoded image in the mode of `MODES`, converted if the file has other channels.

    Raises:
        ValueError: if the file is damaged or no single image of 8 bits a channel; the sentence
            names it.
    """
    with _opened(file) as image:
        image.load()
        # Pillow would make a copy.
        return image if image.mode == MODES[channels] else image.convert(MODES[channels])


def read_pixels(file: pathlib.Path, channels: int) -> np.ndarray:
    """Return the pixels of `read_picture`, uint8 (H, W, channels)."""
    return pixels(read_picture(file, channels))


def printable(file: pathlib.Path | str) -> str:
    """A path as text for any terminal: bytes that are no UTF-8 are shown as `\\xff`."""
    return os.fsencode(file).decode("utf-8", "backslashreplace")


@contextlib.contextmanager
def _opened(file: pathlib.Path):
    try:
        with Image.open(file) as image:
            _check(image)
            # Pillow turns a TIFF itself. In a PNG the orientation may follow the pixels, and Pillow
            # would decode the pixels to look for it.
            noted = image.format != "PNG" or "exif" in image.info or _noted_behind(file)
            # Pillow's function would decode every image, also those that it does not turn.
            if noted and image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
                ImageOps.exif_transpose(image, in_place=True)
            yield image
    # Pillow raises SyntaxError for a broken PNG, and its own error for a decompression bomb.
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(
            f"{printable(file)} cannot be read as an image ({error}): remove or replace it."
        ) from error


def _check(image: Image.Image) -> None:
    """Refuse files of which the conversion to 8 bits a channel would silently lose a part."""
    if image.mode not in CHANNELS or _deep(image):
        raise ValueError(f"mode {image.mode} of Pillow, not 8 bits a channel")
    frames = getattr(image, "n_frames", 1) if image.format in OF_SEVERAL else 1
    if frames > 1:
        raise ValueError(f"it has {frames} pages, and an example is one; save each as a file")


def _deep(image: Image.Image) -> bool:
    """Whether the file has more than 8 bits a channel; Pillow would keep 8 of them."""
    if image.format == "TIFF":
        return any(bits > 8 for bits in image.tag_v2.get(BITS_PER_SAMPLE, (1,)))
    for tile in image.tile:
        arguments = tile.args if isinstance(tile.args, tuple) else (tile.args,)
        # The raw mode of a PNG, such as "RGB;16B"; the largest value of a PPM.
        if any(isinstance(argument, str) and ";16" in argument for argument in arguments):
            return True
        if tile.codec_name.startswith("ppm") and arguments[-1] > 255:
            return True
    return False


def _noted_behind(file: pathlib.Path) -> bool:
    """Whether a PNG has an eXIf chunk, which may follow its pixels; only chunk heads are read."""
    with open(file, "rb") as stream:
        stream.seek(8)
        while len(head := stream.read(8)) == 8:
            length, kind = struct.unpack(">I4s", head)
            if kind in (b"eXIf", b"IEND"):
                return kind == b"eXIf"
            stream.seek(length + 4, os.SEEK_CUR)
    return False
