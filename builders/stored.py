"""The config in a workdir, written by this version of the program or an older one."""

from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from builders.aliases import modernised, named_today
from builders.sections import pruned
from configs.base import base
from training.workdir import read_config

# Sections that are not completed from `base`: a missing key did not exist when the config was
# written, and the constructor's own default is the behaviour of that time.
WHOLE = ("sde", "model")


def stored_config(workdir: Path) -> ConfigDict:
    """Read the config of a run from `<workdir>/config.json`, completed by present defaults.

    Raises:
        ValueError: there is no such file, or it is not the config of a run.
    """
    file = Path(workdir) / "config.json"
    if not file.is_file():
        raise ValueError(
            f"There is no config.json in {workdir}; name the workdir of a run that was trained or "
            "imported."
        )
    stored = tuples(read_config(file))
    try:
        law, network = stored["sde"]["name"], stored["model"]["name"]
        law = named_today("sde.name", law.lower())
        config = base(law, network, stored["data"]["dataset"], stored["training"]["continuous"])
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{file} is not the config of a run ({type(error).__name__}: {error}); restore the "
            "file, or train in another workdir."
        ) from None
    return completed(config, stored)


def understood(file: Path) -> dict[str, Any]:
    """Read a `config.json` with present names of keys, without sections that its run does not use.

    Raises:
        ValueError: as `stored_config`.
    """
    return pruned(stored_config(file.parent)).to_dict()


def completed(config: ConfigDict, stored: dict[str, Any]) -> ConfigDict:
    """Return the stored sections; missing keys have the values of `config`."""
    found = config.to_dict()
    for name, value in stored.items():
        nested = isinstance(value, dict) and name in found and name not in WHOLE
        found[name] = merged(found[name], value) if nested else value
    return modernised(ConfigDict(found), strict=False)


def merged(ours: dict[str, Any], theirs: dict[str, Any]) -> dict[str, Any]:
    """Merge a section with its stored values, including the sections of methods in it."""
    nested = lambda key, value: isinstance(value, dict) and isinstance(ours.get(key), dict)
    return {**ours, **{k: {**ours[k], **v} if nested(k, v) else v for k, v in theirs.items()}}


def tuples(tree: Any) -> Any:
    """Convert the lists that JSON made of tuples back to tuples."""
    if isinstance(tree, dict):
        return {key: tuples(value) for key, value in tree.items()}
    return tuple(map(tuples, tree)) if isinstance(tree, list) else tree
