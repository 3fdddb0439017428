"""Sections of a config that are made from signatures.

A method's section has the keyword arguments of its constructor: `sampling.edm.s_churn`,
`likelihood.adams.steps`. Names, types and defaults are read off the signature, so a new method
needs its file and one line of a table. `CHOICES` says which key of the config picks from which
table.
"""

import inspect
from collections import ChainMap
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ml_collections import ConfigDict

import editing
import guidance
import likelihood
import losses
import operators
import restoration
import samplers
from builders.methods import METHODS

PLAIN = (bool, int, float, str, tuple)
# Arguments shared by all methods of sampling, which are keys of `sampling` itself.
SHARED = ("steps", "grid", "eps", "denoise", "batch_size")

# Methods of guidance, to measurements and to classes.
FOLLOWED = ChainMap(restoration.METHODS, guidance.CLASS_GUIDES)


class Choice(NamedTuple):
    """One key of a config that picks an entry of a table, such as `sampling.predictor`.

    `given`: arguments of the entries that the builder provides and that have no key in the section.
    """

    section: str
    key: str
    table: Mapping[str, Callable]
    given: tuple[str, ...] = ()


CHOICES = (
    Choice("loss", "name", losses.LOSSES, ("sigma_data",)),
    Choice("sampling", "method", {name: method.make for name, method in METHODS.items()}, SHARED),
    Choice("sampling", "predictor", samplers.PREDICTORS, SHARED),
    Choice("sampling", "corrector", samplers.CORRECTORS, ("at",)),
    Choice("sampling", "grid", samplers.GRIDS, SHARED),
    Choice("guidance", "method", FOLLOWED, ("scale",)),
    Choice("guidance", "operator", operators.OPERATORS, ("name",)),
    Choice("edit", "method", editing.EDITS),
    Choice("likelihood", "solver", likelihood.FLOW_SOLVERS, ("method", "adjoint")),
    Choice("likelihood", "divergence", likelihood.DIVERGENCES),
)


def options(make: Callable, given: tuple[str, ...] = ()) -> dict[str, Any]:
    """The arguments of a constructor with a plain default (see PLAIN), except those in `given`.

    A loss also has its teachers as options, each an empty string until a workdir is named.
    """
    found = {
        name: parameter.default
        for name, parameter in inspect.signature(make).parameters.items()
        if isinstance(parameter.default, PLAIN) and name not in given
    }
    return {**found, **dict.fromkeys(losses.needs_of(make).teachers, "")}


def sections(section: str) -> dict[str, dict[str, Any]]:
    """The sections of all methods that a section of the config may pick; empty ones are left out.

    `sections("sampling")["edm"]` is `{"s_churn": 0.0, ...}`.
    """
    found = {}
    for choice in choices(section):
        for name, make in choice.table.items():
            if own := options(make, choice.given):
                found[name] = own
    return found


def choices(section: str) -> tuple[Choice, ...]:
    """The choices that a section of the config makes."""
    return tuple(choice for choice in CHOICES if choice.section == section)


def pruned(config: ConfigDict) -> ConfigDict:
    """Return a config without the sections of methods that it does not use."""
    found = config.to_dict()
    choosing = {choice.section for choice in CHOICES}
    if found.get("data2", {}).get("dataset") == "none":
        del found["data2"]
    if not found.get("players", True):
        del found["players"]
    for name, section in found.items():
        unread = idle(name, section) if name in choosing else ()
        if isinstance(section, dict):
            kept = {k: v for k, v in section.items() if k not in unread and v is not None}
            found[name] = kept
    return ConfigDict(found)


def idle(name: str, section: Mapping[str, Any]) -> set[str]:
    """The sections of methods that a section of the config does not use."""
    return sections(name).keys() - used(name, section)


def chosen(name: str, section: Mapping[str, Any]) -> dict[str, str]:
    """The choices of a section by key: `{"method": "pc", "predictor": "ddim", ...}`.

    Choices that the chosen method does not use are left out: "ode" has no predictor, and guidance
    to classes no operator.
    """
    picked = {choice.key: section[choice.key] for choice in choices(name)}
    if name == "sampling" and picked["method"] in METHODS:
        makes = METHODS[picked["method"]].uses
        picked = {key: value for key, value in picked.items() if key in makes or key == "method"}
    if name == "guidance" and picked["method"] not in restoration.METHODS:
        picked.pop("operator")
    return picked


def used(name: str, section: Mapping[str, Any]) -> set[str]:
    """The sections of methods that a section of the config uses."""
    found = set(chosen(name, section).values())
    if name == "sampling" and section["method"] in METHODS:
        found |= set(METHODS[section["method"]].uses)
    return found & set(sections(name))
