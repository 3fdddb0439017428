"""The sections `sde`, `model`, `data` and `optim`, with the arguments of the constructor they name.

Arguments and defaults are read off the signature. A new law, network or kind of data therefore
needs its file and one line of `sde_lib.SDES`, `models.MODELS` or `data.SOURCES`.
"""

from collections import ChainMap
from collections.abc import Callable, Mapping
from inspect import signature
from typing import Any, NamedTuple

from ml_collections import ConfigDict

import data
import losses
import models
import sde_lib
from builders.sections import options
from data.source import unknown
from losses.needs import needs_of
from training.optimizer import OPTIMIZERS


class Named(NamedTuple):
    """A section: the key that names the constructor, and the table of constructors.

    `given`: arguments that come from other sections. `beside`: keys of the section that are no
    arguments of the constructor.
    """

    key: str
    table: Mapping[str, Callable]
    given: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()


# Views of several tables: an entry added to one of the tables appears in the view.
LAWS = ChainMap(sde_lib.SDES, sde_lib.TABLED)
NETWORKS = ChainMap(*models.TABLES.values())
SECOND = ChainMap({"none": lambda split: None}, data.SOURCES)
OF_DATA = ("eval_split", "centered", "random_flip", "uniform_dequantization")
NAMED = {
    "sde": Named("name", LAWS),
    "model": Named("name", NETWORKS, ("name", "parent", "centered", "sigma_min", "sigma_max")),
    "data": Named("dataset", data.SOURCES, beside=OF_DATA),
    "data2": Named("dataset", SECOND),
    "optim": Named("optimizer", OPTIMIZERS),
}


def section_of(section: str, name: str) -> dict[str, Any]:
    """The section for a constructor: its name, and its arguments with their defaults."""
    named = NAMED[section]
    return {named.key: name, **options(named.table[name], named.given)}


def whole_data(config: ConfigDict) -> ConfigDict:
    """Complete the sections `data` and `data2` of a config with the defaults of their kind of data.

    A config file that makes a new section may leave out keys with default values. A section with
    keys of another kind is left unchanged; `arguments_of` refuses it.
    """
    for section in ("data", "data2"):
        name, (key, table, _, beside) = config[section].get("dataset"), NAMED[section]
        if name not in table:
            continue
        own, whole = set(config[section]) - {key, *beside}, section_of(section, name)
        if own and own <= whole.keys():
            config[section] = ConfigDict({**whole, **config[section].to_dict()})
    return config


def arguments_of(section: str, config: Mapping[str, Any]) -> tuple[Callable, dict[str, Any]]:
    """Return the constructor that a section of a config names, and the arguments in the section.

    Raises:
        ValueError: for an unknown name or key, or the keys of another constructor.
    """
    named, name = NAMED[section], config[NAMED[section].key]
    if name not in named.table:
        raise ValueError(unknown(f"{section}.{named.key}", name, tuple(named.table)))
    takes = signature(named.table[name]).parameters.values()
    known = {p.name for p in takes if p.default is not p.empty} - {*named.given}
    own = {k: v for k, v in config.items() if k not in (named.key, *named.beside)}
    if own.keys() - known or (known and not own):
        raise ValueError(
            f"{section}.{named.key} is {name!r}, whose options are "
            f"{', '.join(sorted(known)) or 'none'}, but the section has "
            f"{', '.join(sorted(own)) or 'none'}; start from a config file of it."
        )
    return named.table[name], own


def trained(loss: str) -> Mapping[str, Any]:
    """The networks that a loss trains, by name."""
    return models.TABLES[needs_of(losses.LOSSES[loss]).trains]


def loss_of(network: str, continuous: bool) -> str:
    """The default loss of a network."""
    if network in models.MODELS:
        return "denoising" if continuous else "discrete"
    return next(loss for loss in losses.LOSSES if network in trained(loss))
