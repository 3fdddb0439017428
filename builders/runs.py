"""Another run that a config names by its workdir: a classifier, a teacher, a network of levels."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from builders.stored import stored_config


class Asked(NamedTuple):
    """A request for another run: the key that names its workdir, the kind of network in words, the
    table of such networks, and the advice in the sentence that refuses another network."""

    key: str
    what: str
    table: Mapping[str, Any]
    mend: str


def states_of(config: ConfigDict, shape: tuple[int, ...]) -> dict[str, Any]:
    """The settings that two runs must share to see the same states."""
    return {
        "sde": config.sde.to_dict(),
        "data.centered": config.data.centered,
        "the shape of an example": tuple(shape),
    }


def other_run(
    build: Callable,
    asked: Asked,
    workdir: str,
    ours: Mapping[str, Any],
    beside: Mapping[str, Any] | None = None,
) -> Any:
    """The experiment of the run in a workdir.

    Args:
        build: `(config, reads_data) -> Experiment`.
        ours: the entries of `states_of` this run that the two runs must share.
        beside: sections that replace those of the other run.

    Raises:
        ValueError: for a folder that is no workdir, a network of another kind, or other states.
    """
    key, what, table, mend = asked
    if not workdir:
        raise ValueError(f"{key} is empty; {mend}")
    there = (Path(workdir) / "config.json").is_file()
    config = stored_config(Path(workdir)) if there else None
    if config is None or config.model.name not in table:
        found = f"whose model.name is {config.model.name!r}" if config else "without a config.json"
        raise ValueError(f"{key} is {workdir}, {found}, no {what}; {mend}")
    config.sampling.method = "pc"  # nothing is sampled from that run; a chain would need a network
    other = build(ConfigDict({**config.to_dict(), **(beside or {})}), reads_data=False)
    theirs = states_of(config, other.shape)
    for name, value in ours.items():
        if theirs[name] != value:
            raise ValueError(
                f"{key} is {workdir}, which has {name} = {theirs[name]}, and this run has {value}; "
                f"both must see the same states: {mend}"
            )
    return other
