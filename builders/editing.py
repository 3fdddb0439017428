"""The section `edit` of a config as one function `(keys, predict, guided, image) -> SampleResult`.

What is drawn anew follows the section `guidance`, a class or none; what stays is said here.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from ml_collections import ConfigDict

import editing
import guidance
import samplers
from builders.checks import CLASS_GUIDANCE, choose
from builders.experiment import Experiment
from builders.operators import build_mask
from builders.steps import build_end, build_parts
from evaluation.tasks.given import given_source
from operators.mask import broadcast_mask
from samplers.base import SampleResult
from sde_lib.prediction import PredictFn

EditFn = Callable[[Array, PredictFn, PredictFn, Array], SampleResult]
METHODS = ("none", "sdedit", "flow")


class Editing(NamedTuple):
    """`run(keys, predict, guided, image)`: edits of images (B, ...) by two prediction functions,
    that of the images and that of the edits. `keep`: a boolean for each value of an image, of what
    stays; None for nothing."""

    run: EditFn
    keep: np.ndarray | None


def build_editing(experiment: Experiment) -> Editing | None:
    """The edits that a config asks for; None where it asks for none.

    Raises:
        ValueError: for images that are not there, a strength beyond the law, a mask that is not one
            of the images, or options that the method does not read.
    """
    config = experiment.config
    section = config.edit
    choose("edit.method", section.method, METHODS)
    if section.method == "none":
        return None
    check_editing(experiment)
    given_source(experiment, section.images)
    keep = None
    if section.keep:
        mask = build_mask(section.keep, experiment.shape, "edit.keep")
        keep = broadcast_mask("edit.keep", experiment.shape, mask)
    make = build_sdedit if section.method == "sdedit" else build_flow
    return Editing(make(config, experiment.path, keep), keep)


def build_sdedit(config: ConfigDict, path, keep: np.ndarray | None) -> EditFn:
    """Noised, and down by the configured predictor and corrector."""
    section, sampling = config.edit, config.sampling
    sampler = samplers.chain(*build_parts(sampling, path))
    grid = {"steps": sampling.steps, "grid": sampling.grid, "eps": build_end(sampling, path)}
    strength = {"strength": section.strength, "unit": section.unit}
    editing.edit_grid(path, **strength, **grid)
    known = None if section.content else keep

    def run(key: Array, predict: PredictFn, guided: PredictFn, image: Array) -> SampleResult:
        del predict
        guided = faithful(path, section.content, keep, image)(guided)
        options = {**strength, **grid, "keep": known, "denoise": sampling.denoise}
        return editing.sdedit(key, path, guided, sampler, image, **options)

    return run


def build_flow(config: ConfigDict, path, keep: np.ndarray | None) -> EditFn:
    """Up the flow ODE by Heun's method, and down it, or with noise by region."""
    section, sampling = config.edit, config.sampling
    eps = build_end(sampling, path)
    ts = editing.edit_grid(path, section.strength, section.unit, sampling.steps, sampling.grid, eps)
    up = down = samplers.heun(path)
    if section.eta or section.eta_kept:
        stays = False if keep is None else keep
        down = editing.regional(path, np.where(stays, section.eta_kept, section.eta))
    travel = {"window": tuple(section.window), "repeats": section.repeats}
    editing.check_travel(**travel)

    def run(key: Array, predict: PredictFn, guided: PredictFn, image: Array) -> SampleResult:
        guided = faithful(path, section.content, keep, image)(guided)
        rising = samplers.sample(jax.random.key(0), predict, up, image, ts[::-1])
        travelled = editing.time_travel(
            key, path, predict, down, rising.x, ts, guide=lambda _: guided, **travel
        )
        return travelled._replace(nfe=rising.nfe + travelled.nfe)

    return run


def faithful(path, weight: float, keep: np.ndarray | None, image: Array) -> guidance.GuideFn:
    """The guide of `weight |x0 - image|^2 / 2` where the image is kept; of all of it without a
    mask."""
    if not weight:
        return lambda predict: predict

    def energy(x0: Array, t: Array) -> Array:
        del t
        return 0.5 * jnp.sum((x0 - image) ** 2, axis=tuple(range(1, x0.ndim)))

    return guidance.energy_guidance(path, energy, weight, mask=keep)


def check_editing(experiment: Experiment) -> None:
    """Refuses options that do not go together, or that the method would not read."""
    config = experiment.config
    section, guides = config.edit, config.guidance.method
    if guides not in ("none", *CLASS_GUIDANCE):
        raise ValueError(
            f"edit.method is {section.method!r} and guidance.method {guides!r}, which restores "
            f"measurements; edits take 'none' or one of {', '.join(CLASS_GUIDANCE)}."
        )
    if config.sampling.method != "pc":
        raise ValueError(
            f"edit.method is {section.method!r}, which takes steps down a grid, and "
            f"sampling.method is {config.sampling.method!r}; take 'pc'."
        )
    if section.method == "sdedit":
        for key, default in (("eta", 0.0), ("eta_kept", 0.0), ("repeats", 1), ("source_label", -1)):
            if section[key] != default:
                raise ValueError(
                    f"edit.{key} is {section[key]} and edit.method 'sdedit', which does not read "
                    f"it; take 'flow', or leave it {default}."
                )
    elif section.keep and not (section.content or section.eta or section.eta_kept):
        raise ValueError(
            f"edit.keep is {section.keep!r} and edit.method 'flow', which keeps nothing by itself; "
            "give a weight of the image, edit.content, or noise by region, edit.eta."
        )
    if section.source_label >= experiment.num_classes and section.source_label >= 0:
        raise ValueError(
            f"edit.source_label is {section.source_label} and the network knows "
            f"{experiment.num_classes} classes; give one of them, or -1 for none."
        )
