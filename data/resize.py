"""Crop and resize images of any number of channels."""

from numbers import Integral

import numpy as np
from PIL import Image

Size = int | tuple[int, ...]


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
    image: np.ndarray, size: tuple[int, int] | None, crop: tuple[int, int] | None = None
) -> np.ndarray:
    """Crop an image to its middle and resize it: uint8 (h, w, C) to uint8 (H, W, C).

    First the central `crop` = (height, width) pixels are taken, if given. Then the largest central
    part with the aspect of `size` = (H, W) is resized to it with Pillow's antialiased Lanczos
    filter; `size=None` leaves the size.

    Raises:
        ValueError: if `crop` is larger than the image.
    """
    if crop is not None:
        if crop[0] > image.shape[0] or crop[1] > image.shape[1]:
            raise ValueError(f"crop={crop} is larger than the image, {image.shape[:2]}.")
        image = _middle(image, *crop)
    if size is None or image.shape[:2] == size:
        return image
    height, width = image.shape[:2]
    # Cropped before resizing: with the `box` argument of `resize` the filter would use pixels
    # outside the box.
    image = _middle(
        image,
        min(height, max(1, round(width * size[0] / size[1]))),
        min(width, max(1, round(height * size[1] / size[0]))),
    )
    # Channel by channel: Pillow has no images of any number of channels, and would weight colours
    # by alpha.
    planes = [Image.fromarray(np.ascontiguousarray(plane)) for plane in np.moveaxis(image, -1, 0)]
    lanczos = Image.Resampling.LANCZOS
    return np.stack([plane.resize((size[1], size[0]), lanczos) for plane in planes], axis=-1)


def _middle(image: np.ndarray, height: int, width: int) -> np.ndarray:
    top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
    return image[top : top + height, left : left + width]
