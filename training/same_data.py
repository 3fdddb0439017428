"""The record of a run's training data; a run is not resumed with other data.

A resumed run repeats itself bit for bit only with the same data. A run that continues with other
data has been trained on neither set alone.
"""

import json
from pathlib import Path
from typing import Any

from training.workdir import kept_name
from whole_files import put


def check_data(workdir: Path, train: Any, force: bool = False, name: str = "data") -> list[str]:
    """Compare the training data with those at the first start of the run.

    The first start writes `<workdir>/<name>.json`.

    Args:
        train: the training split, a `Source`.
        force: accept other data; the old file is kept as `<name>.json.<n>`.
        name: the section of the data, "data" or "data2".

    Returns:
        The accepted differences, a clause each, which are printed too.

    Raises:
        ValueError: the data differ and `force` is false; the sentence has the differences.
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
    """Read the record; empty if the file is damaged or missing (workdirs of older versions)."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
