"""Paths as the user writes them: `~` is the home folder.

A shell replaces a `~` at the beginning of a word alone, not that of `--workdir=~/runs`.
"""

import os
from pathlib import Path

from ml_collections import ConfigDict

from training.workdir import flatten


def place(path: str) -> Path:
    """The path of a flag."""
    return Path(os.path.expanduser(path))


def expanded(config: ConfigDict) -> ConfigDict:
    """The config with every value that begins with `~`, which only paths do, as it is meant."""
    homely = {
        key: os.path.expanduser(value)
        for key, value in flatten(config.to_dict()).items()
        if isinstance(value, str) and value.startswith("~")
    }
    if not homely:
        return config
    config = config.copy_and_resolve_references()
    config.update_from_flattened_dict(homely)
    return config
