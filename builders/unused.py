"""Refusal of keys that are set but not read, since setting them has no effect."""

from collections.abc import Iterable

from ml_collections import ConfigDict

from builders.aliases import unused
from builders.sections import CHOICES, idle
from configs.base import base

CHOOSING = {choice.section for choice in CHOICES}


def check_flags(config: ConfigDict, given: Iterable[str]) -> None:
    """Refuse flags for a method that is not chosen.

    Args:
        given: keys that were set by flags, such as "sampling.edm.s_churn".

    Raises:
        ValueError: for a key of a method that is not chosen.
    """
    for key in given:
        name, *rest = key.split(".")
        if name in CHOOSING and len(rest) == 2 and rest[0] in idle(name, config[name]):
            raise ValueError(unused(key, config[name][rest[0]][rest[1]], name, config[name]))


def check_file(config: ConfigDict) -> None:
    """Refuse a config file that sets a key of a method that it does not choose.

    A flag may choose another method afterwards; the file's keys of its own method are then unused.

    Raises:
        ValueError: for a key of a method that is not chosen.
    """
    defaults = base_of(config)
    for name in CHOOSING if defaults else ():
        for method in idle(name, config[name]):
            for option, value in config[name][method].items():
                if value != defaults[name][method].get(option):
                    key = f"{name}.{method}.{option}"
                    raise ValueError(unused(key, value, name, config[name]))


def base_of(config: ConfigDict) -> ConfigDict | None:
    """The defaults from which a config started; None for a law or network of the user's own."""
    names = config.sde.name, config.model.name, config.data.dataset, config.training.continuous
    try:
        return base(*names)
    except KeyError:
        return None
