"""Paths with `~` for the home folder.

A shell replaces `~` only at the beginning of a word, and not in `--workdir=~/runs`.
"""

import os
from pathlib import Path

from ml_collections import ConfigDict

from training.workdir import flatten


def place(path: str) -> Path:
    """Return the path of a flag, with `~` replaced."""
    return Path(os.path.expanduser(path))


def expanded(config: ConfigDict) -> ConfigDict:
    """Return the config with `~` replaced in every value that begins with it; only paths do."""
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
