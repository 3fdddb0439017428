"""The data are a part of a run: they are written down, and other ones are refused.

"Bit for bit" holds for the same data alone, and a run that goes on with others has trained on
neither.
"""

import json
from pathlib import Path
from typing import Any

from training.workdir import kept_name
from whole_files import put


def check_data(workdir: Path, train: Any, force: bool = False, name: str = "data") -> list[str]:
    """Compares the training data, a `Source`, with those that the run began with, which are written
    to `<workdir>/data.json` at its first start; `name` is the section, "data" or "data2".

    Returns the differences that were forced, a clause each; they are printed too, and the old file
    stays, as `data.json.<n>`.

    Raises:
        ValueError: for other data, with what differs.
    """
    path, now = workdir / f"{name}.json", train.identity
    before = read(path)
    found = [
        f"{name}.{key} was {before.get(key)} and is {value}"
        for key, value in now.items()
        if before and before.get(key) != value
    ]
    if found and not force:
        raise ValueError(
            f"The data of this run have changed since it began in {workdir}: {'; '.join(found)}. "
            "Put them back, take another workdir, or pass --force_config to go on with the new "
            "ones."
        )
    for difference in found:
        print(f"--force_config: {difference}")
    if found:
        put(kept_name(path), path.read_bytes())
    if before != now:
        put(path, json.dumps(now, indent=2) + "\n")
    return found


def read(path: Path) -> dict[str, Any]:
    """What the file says; nothing where it is not there, as in workdirs of versions before, or is
    damaged."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
