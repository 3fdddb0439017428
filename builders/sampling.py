"""The section `sampling` of a config as one `SampleFn`."""

from ml_collections import ConfigDict

import sde_lib
from builders.aliases import modern
from builders.checks import choose
from builders.methods import METHODS
from builders.sections import choices
from builders.steps import Known, Parts, construct
from samplers.base import SampleFn


def build_sampler(
    section: ConfigDict,
    path: sde_lib.AffinePath,
    known: Known = Known(),  # noqa: B008 - an immutable tuple
) -> SampleFn:
    """`(key, predict, x, cond=None) -> SampleResult` by the configured method.

    Raises:
        ValueError: for an unknown name, an option that the method refuses, or an old name of a key
            that the method does not have.
    """
    section = modern("sampling", section)
    check_names(section)
    name, parts = section.method, Parts(path, section, known)
    return construct(f"sampling.{name}", METHODS[name].make, section.get(name, {}), parts=parts)


def check_names(section: ConfigDict) -> None:
    """Refuse unknown names, also in keys that the chosen method does not read.

    A misspelling should be found before training.
    """
    for choice in choices("sampling"):
        none = ("none",) if choice.key in ("predictor", "corrector") else ()
        choose(f"sampling.{choice.key}", section[choice.key], (*none, *choice.table))
