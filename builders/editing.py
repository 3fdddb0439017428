"""The section `edit` of a config as one function `(keys, predict, guided, image) -> SampleResult`.

The section `guidance` may give the class of the edits. The section `edit` says which part of an
image is kept.
"""

import editing
import guidance
from builders.checks import choose
from builders.experiment import Experiment
from builders.steps import build_end, build_parts, construct
from evaluation.tasks.given import given_source


def build_editing(experiment: Experiment) -> editing.Edit | None:
    """Build the edit of a config; None if `edit.method` is "none".

    Raises:
        ValueError: for images that do not exist, a strength beyond the law, a mask that does not
            fit the images, or options that exclude each other.
    """
    config, path = experiment.config, experiment.path
    section, sampling, name = config.edit, config.sampling, config.edit.method
    make = choose("edit.method", name, {"none": None, **editing.EDITS})
    if make is None:
        return None
    check_editing(experiment)
    given_source(experiment, section.images)
    setting = editing.Setting(
        path,
        experiment.shape,
        build_parts(sampling, path),
        sampling.steps,
        sampling.grid,
        build_end(sampling, path),
        sampling.denoise,
    )
    edit = construct(f"edit.{name}", make, section.get(name, {}), setting=setting)
    if edit.source_label >= experiment.num_classes and edit.source_label >= 0:
        raise ValueError(
            f"edit.{name}.source_label is {edit.source_label} and the network knows "
            f"{experiment.num_classes} classes; give one of them, or -1 for none."
        )
    return edit


def check_editing(experiment: Experiment) -> None:
    """Refuse an edit with guidance to measurements, or with a sampling method without a grid."""
    config = experiment.config
    method, guides = config.edit.method, config.guidance.method
    if guides not in ("none", *guidance.CLASS_GUIDES):
        raise ValueError(
            f"edit.method is {method!r} and guidance.method {guides!r}, which restores "
            f"measurements; edits take 'none' or one of {', '.join(guidance.CLASS_GUIDES)}."
        )
    if config.sampling.method != "pc":
        raise ValueError(
            f"edit.method is {method!r}, which takes steps down a grid, and sampling.method is "
            f"{config.sampling.method!r}; take 'pc'."
        )
