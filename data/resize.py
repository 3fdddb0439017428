"""Crop and resize images of any number of channels."""

from numbers import Integral

import numpy as np
from PIL import Image

Size = int | tuple[int, ...]


def as_pair(name: str, size: Size) -> tuple[int, int] | None:
    """`size` as (H, W): an int or one side is a square, () is None, a list will do for a tuple.

    Raises:
        ValueError: if it is none of these or a side is below 1.
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
    """uint8 (h, w, C) to uint8 (H, W, C): cut the middle out, then resize to `size` = (H, W).

    First the central `crop` = (height, width) pixels are taken, if given. Then the largest central
    part with the aspect of `size` is resized to it with Pillow's antialiased Lanczos filter.

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
    # Cut before resizing: with a box given to `resize` the filter would see pixels outside of it.
    image = _middle(
        image,
        min(height, max(1, round(width * size[0] / size[1]))),
        min(width, max(1, round(height * size[1] / size[0]))),
    )
    # Channel by channel: Pillow knows no images of 2 or 5 channels, and would weigh RGB by alpha.
    planes = [Image.fromarray(np.ascontiguousarray(plane)) for plane in np.moveaxis(image, -1, 0)]
    lanczos = Image.Resampling.LANCZOS
    return np.stack([plane.resize((size[1], size[0]), lanczos) for plane in planes], axis=-1)


def _middle(image: np.ndarray, height: int, width: int) -> np.ndarray:
    top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
    return image[top : top + height, left : left + width]
