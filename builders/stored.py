"""The config that lies in a workdir, whatever version of the program wrote it."""

from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from builders.aliases import modernised, named_today
from builders.sections import pruned
from configs.base import base
from training.workdir import read_config

# Of these a key that is missing did not exist when they were written, and the constructor's own
# default is what was done then.
WHOLE = ("sde", "model")


def stored_config(workdir: Path) -> ConfigDict:
    """The config of a run, from `<workdir>/config.json`, completed by the defaults of today.

    Raises:
        ValueError: where there is no such file, or it is not a config.
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
    """What a `config.json` holds, by the names of today, without sections that its run leaves out.

    Raises:
        ValueError: as `stored_config`.
    """
    return pruned(stored_config(file.parent)).to_dict()


def completed(config: ConfigDict, stored: dict[str, Any]) -> ConfigDict:
    """The stored sections, in which keys that are missing have the values of `config`."""
    found = config.to_dict()
    for name, value in stored.items():
        nested = isinstance(value, dict) and name in found and name not in WHOLE
        found[name] = merged(found[name], value) if nested else value
    return modernised(ConfigDict(found), strict=False)


def merged(ours: dict[str, Any], theirs: dict[str, Any]) -> dict[str, Any]:
    """A section with the stored values, the methods' sections in it likewise."""
    nested = lambda key, value: isinstance(value, dict) and isinstance(ours.get(key), dict)
    return {**ours, **{k: {**ours[k], **v} if nested(k, v) else v for k, v in theirs.items()}}


def tuples(tree: Any) -> Any:
    """What JSON made lists as the tuples that they were."""
    if isinstance(tree, dict):
        return {key: tuples(value) for key, value in tree.items()}
    return tuple(map(tuples, tree)) if isinstance(tree, list) else tree
