"""Resizing of images to 299x299, with the filters of published Frechet Inception distances.

The filter changes the distance by as much as methods differ (Parmar et al. 2022, "On Aliased
Resizing and Surprising Subtleties in GAN Evaluation", arXiv:2104.11222). Its name is therefore part
of the id of a feature space. All three filters are linear in the image and work in floats; nothing
is rounded to 8 bits. With scale s = (side before) / (side after), pixel i of the result is read at

    legacy_tensorflow   i s                     between two pixels, linearly
    legacy_pytorch      (i + 1/2) s - 1/2       between two pixels, linearly; not below 0
    clean               (i + 1/2) s - 1/2       a cubic window of 4 pixels, or 4 s where s > 1

The two legacy filters skip pixels when they shrink an image; `legacy_tensorflow` also shifts it.
"""

import numpy as np
from PIL import Image

SIDE = 299


def clean(images: np.ndarray, side: int = SIDE) -> np.ndarray:
    """Pillow's bicubic filter (a = -1/2) with antialiasing, channel by channel, in float32.

    A cubic filter overshoots at edges; values outside [0, 1] are clipped, as in clean-fid.

    Args:
        images: (N, H, W, C) float32 in [0, 1].

    Returns:
        (N, side, side, C) float32 in [0, 1].
    """
    planes = np.ascontiguousarray(np.moveaxis(images, -1, 1))
    resized = np.empty((*planes.shape[:2], side, side), np.float32)
    for index in np.ndindex(planes.shape[:2]):
        plane = Image.fromarray(planes[index])
        resized[index] = plane.resize((side, side), Image.Resampling.BICUBIC)
    return np.moveaxis(resized.clip(0, 1), 1, -1)


def legacy_tensorflow(images: np.ndarray, side: int = SIDE) -> np.ndarray:
    """`tf.image.resize_bilinear` of TensorFlow 1, as in the graph of 2015. Shapes as in `clean`."""
    return _between(images, side, lambda i, scale: i * scale)


def legacy_pytorch(images: np.ndarray, side: int = SIDE) -> np.ndarray:
    """`interpolate(mode="bilinear", align_corners=False)` of torch, as in pytorch-fid."""
    return _between(images, side, lambda i, scale: np.maximum((i + 0.5) * scale - 0.5, 0))


RESIZES = {
    "clean": clean,
    "legacy_tensorflow": legacy_tensorflow,
    "legacy_pytorch": legacy_pytorch,
}


def to_side(images: np.ndarray, name: str, side: int = SIDE) -> np.ndarray:
    """Resize (N, H, W, 1 or 3) to (N, side, side, 3) float32 by the filter `name` of RESIZES.

    A grey channel is repeated.

    Raises:
        ValueError: the images have another shape.
    """
    if images.ndim != 4 or images.shape[3] not in (1, 3):
        raise ValueError(
            f"The images have shape {images.shape}; Inception features are of images (N, H, W, 1) "
            "or (N, H, W, 3): take the feature space 'pixels' for other data."
        )
    resized = RESIZES[name](images.astype(np.float32), side)
    return np.broadcast_to(resized, (*resized.shape[:3], 3))


def _between(images: np.ndarray, side: int, place) -> np.ndarray:
    rows, columns = (_weights(n, side, place).astype(np.float32) for n in images.shape[1:3])
    # Each plane has its own two matrix products. In one product of all planes the order of addition
    # would depend on the number of channels and of images, and with it the rounding.
    planes = np.ascontiguousarray(np.moveaxis(images, -1, 1))
    return np.moveaxis(rows @ planes @ columns.T, 1, -1)


def _weights(before: int, after: int, place) -> np.ndarray:
    """(after, before): row i weighs the two pixels beside `place(i, before / after)`."""
    i = np.arange(after)
    at = place(i, before / after)
    low = np.minimum(at.astype(int), before - 1)
    weights = np.zeros((after, before))
    weights[i, low] += 1 - (at - low)
    weights[i, np.minimum(low + 1, before - 1)] += at - low
    return weights
