"""What an edit is: where it runs and its options in, edited images out."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jax import Array

from guidance import GuideFn, energy_guidance
from operators import named_mask
from operators.mask import broadcast_mask
from samplers import Sampler, SampleResult
from sde_lib import AffinePath, total
from sde_lib.prediction import PredictFn
from sde_lib.ranges import not_negative, positive

# `(keys, predict, guided, image) -> SampleResult`, by two prediction functions: that of the images
# and that of the edits.
EditFn = Callable[[Array, PredictFn, PredictFn, Array], SampleResult]


class Setting(NamedTuple):
    """The law, the shape of one image, the methods of one step in order, and the grid: so many
    `steps` of the grid of that name, down to `eps`, with or without a last conditional mean."""

    path: AffinePath
    shape: tuple[int, ...]
    parts: Sequence[Sampler]
    steps: int
    grid: str
    eps: float
    denoise: bool = False


class Edit(NamedTuple):
    """`run`, an `EditFn` for images (B, ...). `keep`: a boolean for each value of an image, of what
    stays; None for nothing. `source_label`: the class of the images, -1 for none."""

    run: EditFn
    keep: np.ndarray | None
    source_label: int = -1


def kept(setting: Setting, keep: str) -> np.ndarray | None:
    """What stays of an image, by the name of a mask or a file; None for nothing."""
    if not keep:
        return None
    return broadcast_mask("keep", setting.shape, named_mask(keep, setting.shape))


def check_options(strength: float, content: float) -> None:
    positive(strength=strength)
    not_negative(content=content)


def faithful(path: AffinePath, weight: float, keep: np.ndarray | None, image: Array) -> GuideFn:
    """The guide of `weight |x0 - image|^2 / 2` where the image is kept; of all of it without a
    mask."""
    if not weight:
        return lambda predict: predict

    def energy(x0: Array, t: Array) -> Array:
        del t
        return 0.5 * total((x0 - image) ** 2)

    return energy_guidance(path, energy, weight, mask=keep)
