"""Reading of config files, and refusal of values of a wrong type and of keys that nothing reads,
since setting such a key has no effect."""

import runpy
import traceback
from collections.abc import Iterable, Iterator
from types import FrameType

from ml_collections import ConfigDict

from builders.aliases import unused
from builders.sections import CHOICES, idle
from configs.base import base

CHOOSING = {choice.section for choice in CHOICES}


def config_of_file(path: str) -> ConfigDict:
    """The config of a file.

    Raises:
        ValueError: for a file that sets a key to a value of the wrong type.
    """
    try:
        return runpy.run_path(path)["get_config"]()
    except TypeError as error:
        frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
        if frames[-1].f_code is ConfigDict.__setitem__.__code__:
            raise ValueError(wrong_type(path, frames)) from None
        raise


def wrong_type(path: str, frames: list[FrameType]) -> str:
    """The sentence for a value of the wrong type; the last of the frames is its assignment."""
    section, key, value = (frames[-1].f_locals[name] for name in ("self", "key", "value"))
    roots = [v for f in frames for v in f.f_locals.values() if isinstance(v, ConfigDict)]
    names = (name for root in roots for name, found in sections_in(root) if found is section)
    key, now = ".".join([*filter(None, [max(names, key=len, default="")]), key]), section[key]
    said = f"{path} sets {key} to {value!r}, and it is"
    if isinstance(now, ConfigDict):
        return f"{said} a section; set one of its keys, such as {key}.{next(iter(now))}."
    return f"{said} of type {type(now).__name__}; give such a value, like its default {now!r}."


def sections_in(config: ConfigDict, name: str = "") -> Iterator[tuple[str, ConfigDict]]:
    """The config itself and all sections in it, with their names."""
    yield name, config
    for key, value in config.items():
        if isinstance(value, ConfigDict):
            yield from sections_in(value, f"{name}.{key}" if name else key)


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
