"""A workdir belongs to one config: it is written there, and another one is refused."""

import json
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

# What a checkpoint depends on. Sampling, likelihood and evaluation may change from run to run.
IDENTITY = ("seed", "sde", "model", "prediction", "loss", "optim", "training", "data")
# What a run may change on the way, for it moves no number.
FREE = {
    "training.log_freq",
    "training.eval_freq",
    "training.snapshot_freq",
    "training.keep_snapshots",
    "training.snapshot_sampling",
    "training.progress",
    "data.path",
}


def claim(workdir: Path, config: ConfigDict, force: bool = False) -> None:
    """Writes `config.json`, or checks that the one there is of the same run.

    Raises:
        ValueError: naming every key that differs, unless `force`, which keeps the old file beside
            the new one as `config.json.<n>`.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    path, ours = workdir / "config.json", flatten(config.to_dict())
    if path.exists():
        theirs = flatten(json.loads(path.read_text()))
        different = [
            f"{key} is {theirs.get(key, 'absent')!r} there and {ours.get(key, 'absent')!r} now"
            for key in sorted(theirs.keys() | ours.keys())
            if key.split(".")[0] in IDENTITY
            and key not in FREE
            and theirs.get(key, "absent") != ours.get(key, "absent")
        ]
        if different and not force:
            raise ValueError(
                f"The workdir {workdir} belongs to another config: {'; '.join(different)}. Take "
                "another workdir, or pass --force_config to go on with the new config."
            )
        if different:
            n = sum(1 for _ in workdir.glob("config.json.*"))
            path.rename(workdir / f"config.json.{n}")
    path.write_text(json.dumps(config.to_dict(), indent=2, sort_keys=True) + "\n")


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """`{"a": {"b": 1}}` to `{"a.b": 1}`; tuples become lists, as JSON has no other."""
    flat = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = list(value) if isinstance(value, tuple) else value
    return flat
