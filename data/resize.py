"""Crop and resize images of any number of channels."""

from numbers import Integral

import numpy as np
from PIL import Image

Size = int | tuple[int, ...]
TOGETHER = ("L", "RGB")  # modes of Pillow whose channels are resized each for itself


def as_pair(name: str, size: Size) -> tuple[int, int] | None:
    """Return `size` as (H, W): an int or a single side is a square, () is None; lists are allowed.

    Raises:
        ValueError: for any other size, or a side below 1.
    """
    pair = (size, size) if isinstance(size, int | np.integer) else tuple(size)
    if not pair:
        return None
    pair = pair * 2 if len(pair) == 1 else pair
    if len(pair) != 2 or not all(isinstance(side, Integral) and side >= 1 for side in pair):
        raise ValueError(
            f"{name} is {size!r}; it must be one side, or (height, width), of at least 1 pixel."
        )
    return int(pair[0]), int(pair[1])


def fit(
    image: Image.Image | np.ndarray,
    size: tuple[int, int] | None,
    crop: tuple[int, int] | None = None,
) -> np.ndarray:
    """Crop an image to its middle and resize it to uint8 (H, W, C).

    First the central `crop` = (height, width) pixels are taken, if given. Then the largest central
    part with the aspect of `size` = (H, W) is resized to it with Pillow's antialiased Lanczos
    filter; `size=None` leaves the size.

    Args:
        image: an image of Pillow of mode L, LA, RGB or RGBA, or an array uint8 (h, w, C).

    Raises:
        ValueError: if `crop` is larger than the image.
    """
    shape = image.shape[:2] if isinstance(image, np.ndarray) else (image.height, image.width)
    top, left, height, width = central(shape, size, crop)
    # Cropped before resizing: with the `box` argument of `resize` the filter would use pixels
    # outside the box.
    if isinstance(image, np.ndarray):
        image = image[top : top + height, left : left + width]
        if size in (None, (height, width)):
            return image
        bands = apart(image)
    else:
        bands = [image] if image.mode in TOGETHER else image.split()
        if (height, width) != shape:
            bands = [band.crop((left, top, left + width, top + height)) for band in bands]
    if size not in (None, (height, width)):
        bands = [band.resize((size[1], size[0]), Image.Resampling.LANCZOS) for band in bands]
    return np.dstack([np.asarray(band) for band in bands]) if len(bands) > 1 else pixels(bands[0])


def central(
    shape: tuple[int, int], size: tuple[int, int] | None, crop: tuple[int, int] | None
) -> tuple[int, int, int, int]:
    """The part of an image that `fit` takes, (top, left, height, width)."""
    height, width = shape
    if crop is not None:
        if crop[0] > height or crop[1] > width:
            raise ValueError(f"crop={crop} is larger than the image, {tuple(shape)}.")
        height, width = crop
    above, before = (shape[0] - height) // 2, (shape[1] - width) // 2
    if size is None or (height, width) == size:
        return above, before, height, width
    high = min(height, max(1, round(width * size[0] / size[1])))
    wide = min(width, max(1, round(height * size[1] / size[0])))
    return above + (height - high) // 2, before + (width - wide) // 2, high, wide


def apart(image: np.ndarray) -> list[Image.Image]:
    """Images of Pillow of which none mixes channels: grey and RGB are one, others one a channel.

    Pillow has no images of any number of channels, and would weight colours by alpha.
    """
    if image.shape[-1] == 3:
        return [Image.fromarray(np.ascontiguousarray(image))]
    return [Image.fromarray(np.ascontiguousarray(plane)) for plane in np.moveaxis(image, -1, 0)]


def pixels(image: Image.Image) -> np.ndarray:
    """The pixels of an image of Pillow, uint8 (H, W, C)."""
    found = np.asarray(image)
    return found[..., None] if found.ndim == 2 else found
