"""The config of a workdir, which is written to it; a run with another config is refused."""

import contextlib
import errno
import fcntl
import json
import os
import socket
import tempfile
from collections.abc import Callable, Iterator
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import Any, TextIO

from flax.traverse_util import flatten_dict

from whole_files import put

# MEANING: sections that determine what the parameters mean. TRAINING: sections that determine how
# they are trained. Sampling, likelihood and evaluation may change from run to run.
MEANING = ("sde", "model", "prediction", "data")
TRAINING = (*MEANING, "seed", "loss", "optim", "training")
# Keys that do not change the trained parameters.
FREE = {
    "data.path",
    "data.workers",
    "training.eval_freq",
    "training.keep_every",
    "training.keep_snapshots",
    "training.log_freq",
    "training.max_skipped",
    "training.progress",
    "training.save_minutes",
    "training.snapshot_freq",
    "training.snapshot_sampling",
}
# Errors of network file systems that have no locks.
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
# Keys of later versions, with the value that stands for the behaviour of earlier versions.
SINCE = {"training.accumulate": 1}


def claim(
    workdir: Path,
    config: Any,
    force: bool = False,
    *,
    training: bool,
    read: Callable[[Path], dict[str, Any]] | None = None,
) -> list[str]:
    """Check that the workdir belongs to this config; for a training run, write `config.json`.

    Args:
        config: the resolved config, a `ConfigDict`.
        force: accept differences; the old file is kept as `config.json.<n>`.
        training: compare all keys on which training depends, not only those that determine what
            the parameters mean.
        read: reads the existing `config.json` and may translate older names of keys; by default
            `read_config`, which does not.

    Returns:
        The accepted differences, a clause each, which are printed too.

    Raises:
        ValueError: keys differ and `force` is false (the sentence names each); `config.json` is
            damaged, or is missing beside checkpoints; the workdir cannot be written.
    """
    path, found = workdir / "config.json", []
    if not path.exists() and training and not force and has_checkpoints(workdir):
        raise ValueError(
            f"The workdir {workdir} has checkpoints and no config.json, so their law and network "
            "are unknown; put the file back, or pass --force_config to go on with "
            "this config."
        )
    if path.exists():
        found = differences((read or read_config)(path), flatten(config.to_dict()), training)
    if found and not force:
        raise ValueError(
            f"The workdir {workdir} belongs to another config: {'; '.join(found)}. Take "
            "another workdir, or pass --force_config to go on with the new config."
        )
    for difference in found:
        print(f"--force_config: {difference}")
    if training:
        create(workdir)
        text = json.dumps(config.to_dict(), indent=2, sort_keys=True) + "\n"
        if found:
            put(kept_name(path), path.read_bytes())
        if not path.exists() or path.read_text() != text:
            put(path, text)
    return found


def has_checkpoints(workdir: Path) -> bool:
    folder = workdir / "checkpoints"
    return folder.is_dir() and any(child.name.isdecimal() for child in folder.iterdir())


def read_config(path: Path) -> dict[str, Any]:
    """Read a `config.json`.

    Raises:
        ValueError: the file is not a complete JSON object.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise ValueError(
            f"{path} is damaged: it is not the whole JSON object that training writes. Delete "
            "it, and --mode train --force_config with the config that this workdir was trained "
            "with writes it again; the checkpoints stay."
        )
    return found


def kept_name(path: Path) -> Path:
    """`<path>.<n>`, with the first n for which there is no file."""
    return next(p for n in count() if not (p := path.with_name(f"{path.name}.{n}")).exists())


def create(workdir: Path, name: str = "workdir") -> None:
    """Make the folder `workdir` if it does not exist; `name` is its name in the error sentence.

    Raises:
        ValueError: the folder cannot be made or written.
    """
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        # A file system may refuse to write although permissions allow it, to root in particular.
        with tempfile.TemporaryFile(dir=workdir):
            pass
    except OSError as error:
        raise ValueError(
            f"The {name} {workdir} cannot be written ({error.strerror}); name another with "
            "--workdir, or mend that."
        ) from error


def opened(lock: Path) -> TextIO:
    """Open the file of a lock for reading and writing.

    A link is not followed, since training would overwrite the user's file behind it.

    Raises:
        ValueError: `lock` is a link.
    """
    try:
        return os.fdopen(os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644), "r+")
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise ValueError(
            f"{lock} is a link, and training would write to the file behind it; remove the link."
        ) from None


@contextlib.contextmanager
def held(workdir: Path) -> Iterator[None]:
    """Hold the lock `<workdir>/lock`, so that no second run trains in the workdir.

    The operating system frees the lock however the process ends.

    Raises:
        ValueError: another run holds the lock, the workdir cannot be written, or `lock` is a link.
    """
    create(workdir)
    with opened(workdir / "lock") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in NO_LOCKS:
                print(
                    f"The file system of {workdir} has no locks ({error.strerror}); take care that "
                    "no second run trains there."
                )
                yield
                return
            if not isinstance(error, BlockingIOError):
                raise
            file.seek(0)
            raise ValueError(
                f"Another run is training in the workdir {workdir} ({file.read().strip()}); wait "
                "for it, stop it, or take another workdir."
            ) from None
        file.truncate(0)
        begin = datetime.now().isoformat(" ", "seconds")
        file.write(f"process {os.getpid()} on {socket.gethostname()}, since {begin}\n")
        file.flush()
        yield


def trains(workdir: Path) -> bool:
    """Whether a run holds the lock of a workdir; also True if the file system has no locks."""
    if not (workdir / "lock").is_file():
        return False
    with open(workdir / "lock") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError as error:
            return isinstance(error, BlockingIOError) or error.errno in NO_LOCKS
    return False


def differences(theirs: dict[str, Any], ours: dict[str, Any], training: bool) -> list[str]:
    """Return a clause for each relevant key that differs.

    Args:
        theirs: the config of the workdir, nested.
        ours: the config of this run, flat (see `flatten`).
        training: compare the sections TRAINING, not only MEANING.
    """
    theirs, sections = {**SINCE, **flatten(theirs)}, TRAINING if training else MEANING
    return [
        f"{key} is {theirs.get(key, 'absent')!r} there and {ours.get(key, 'absent')!r} now"
        for key in sorted(theirs.keys() | ours.keys())
        if key.split(".")[0] in sections
        and key not in FREE
        and theirs.get(key, "absent") != ours.get(key, "absent")
    ]


def flatten(tree: dict[str, Any]) -> dict[str, Any]:
    """`{"a": {"b": 1}}` to `{"a.b": 1}`; tuples become lists, since JSON has only lists."""
    flat = flatten_dict(tree, sep=".")
    return {key: list(value) if isinstance(value, tuple) else value for key, value in flat.items()}
