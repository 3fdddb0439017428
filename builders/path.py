"""The section `sde` of a config as a law."""

from pathlib import Path

from ml_collections import ConfigDict

import sde_lib
from builders.aliases import named_today
from builders.constructors import arguments_of
from builders.steps import naming

PROGRAM = Path(__file__).resolve().parents[1]


def build_path(section: ConfigDict) -> sde_lib.AffinePath:
    name = named_today("sde.name", section.name.lower())
    law, numbers = arguments_of("sde", {**section, "name": name})
    if "table" in numbers:
        numbers["table"] = table_file(section.table)
    path = law(**numbers)
    with naming("sde", numbers):
        path.check()
    return path


def table_file(name: str) -> Path:
    """The file of a law's table, relative to the current folder or else to the program's folder.

    Raises:
        ValueError: the name is empty.
    """
    if not name:
        raise ValueError(
            "sde.table is empty; make a table with `python -m tools.kinetic_path --config FILE "
            "--out TABLE.json` and name it with --config.sde.table=TABLE.json."
        )
    return next((p for p in (Path(name), PROGRAM / name) if p.is_file()), Path(name))
