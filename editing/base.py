"""The interface of an edit: from a setting and options to edited images."""

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

# `(keys, predict, guided, image) -> SampleResult`; `predict` is the prediction function of the
# original images, `guided` that of the edits.
EditFn = Callable[[Array, PredictFn, PredictFn, Array], SampleResult]


class Setting(NamedTuple):
    """The law `path`, the `shape` of one image, the methods of one step in order (`parts`), and the
    grid: its number of `steps`, its name and its end `eps`. `denoise` adds a last conditional
    mean."""

    path: AffinePath
    shape: tuple[int, ...]
    parts: Sequence[Sampler]
    steps: int
    grid: str
    eps: float
    denoise: bool = False


class Edit(NamedTuple):
    """`run`: an `EditFn` for images `(B, ...)`. `keep`: for each value of an image, whether it is
    kept; None to keep nothing. `source_label`: the class of the images, -1 for none."""

    run: EditFn
    keep: np.ndarray | None
    source_label: int = -1


def kept(setting: Setting, keep: str) -> np.ndarray | None:
    """The mask of kept values, from the name of a mask or a file; None to keep nothing."""
    if not keep:
        return None
    return broadcast_mask("keep", setting.shape, named_mask(keep, setting.shape))


def check_options(strength: float, content: float) -> None:
    positive(strength=strength)
    not_negative(content=content)


def faithful(path: AffinePath, weight: float, keep: np.ndarray | None, image: Array) -> GuideFn:
    """The guide by the energy `weight |x0 - image|^2 / 2` over the kept values, or over the whole
    image without a mask."""
    if not weight:
        return lambda predict: predict

    def energy(x0: Array, t: Array) -> Array:
        del t
        return 0.5 * total((x0 - image) ** 2)

    return energy_guidance(path, energy, weight, mask=keep)
