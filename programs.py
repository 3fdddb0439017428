"""The cache of compiled programs, which makes a second start fast and ignores files of other users.

The name under which jax keeps a program is a hash of everything it was compiled from; jax later
runs whatever program the file of this name holds. The folder is therefore used only if no other
user can write to it. Each file begins with the SHA-256 of its name and its content. If a file was
renamed, damaged or cut short, the hash differs, and the program is compiled again. This does not
protect against code that runs as this user, which could as well change the code of scorefield.
"""

import hashlib
import os
import stat
from pathlib import Path

import jax
from jax._src import compilation_cache
from jax._src.compilation_cache_interface import CacheInterface

HOME = "~/.cache/scorefield/programs"
DIGEST = 32  # bytes
open_plain = compilation_cache.get_file_cache


class Checked(CacheInterface):
    """A cache of jax that returns a program only if it was stored under the same name.

    Its keys end in `-checked`, so that other jax programs can use the same folder.
    """

    def __init__(self, plain: CacheInterface):
        self._plain, self._path = plain, plain._path

    def get(self, key: str) -> bytes | None:
        """The program stored under `key`; None if there is none, or its SHA-256 differs."""
        name = f"{key}-checked"
        value = self._plain.get(name)
        if value is None or value[:DIGEST] != digest(name, value[DIGEST:]):
            return None
        return value[DIGEST:]

    def put(self, key: str, value: bytes) -> None:
        name = f"{key}-checked"
        if self.get(key) is None:
            # jax does not overwrite an existing file, so a damaged one is removed first.
            (self._path / f"{name}-cache").unlink(missing_ok=True)
        self._plain.put(name, digest(name, value) + value)


def digest(name: str, value: bytes) -> bytes:
    return hashlib.sha256(name.encode() + b"\0" + value).digest()


def keep_programs(folder: Path) -> None:
    """Let jax keep compiled programs in `folder/.jax_cache`.

    If other users can write to `folder`, programs are kept in HOME, or not at all if others can
    write there too; one printed line says so. `JAX_COMPILATION_CACHE_DIR` takes precedence over
    both; if others can write to it, no programs are kept. The folder is made when the first program
    is stored.
    """
    check_programs()
    chosen = jax.config.jax_compilation_cache_dir
    if chosen is not None:
        if "://" in chosen or is_private(Path(chosen)):
            return
        print(
            f"Others may write to {chosen}, so compiled programs are neither read nor kept there; "
            "name a folder of your own by JAX_COMPILATION_CACHE_DIR."
        )
        jax.config.update("jax_compilation_cache_dir", None)
        return
    place, home = folder / ".jax_cache", Path(HOME).expanduser()
    if not is_private(place) or others_write(nearest(place)):
        kept = is_private(home)
        where = f"kept in {home}" if kept else "not kept"
        print(f"Others may write to {folder}, so compiled programs are {where}.")
        place = home if kept else None
    jax.config.update("jax_compilation_cache_dir", None if place is None else str(place))


def check_programs() -> None:
    """Make jax open its cache by `opened`. Call it before anything is compiled."""
    compilation_cache.get_file_cache = opened


def opened(path: str) -> tuple[Checked, str] | None:
    """Open the cache in the folder `path`, or at a URL; returns the cache and `path`.

    A missing folder is made with permissions for this user alone. Returns None if the folder cannot
    be made, or if other users can write to it.
    """
    if "://" not in path:
        try:
            os.makedirs(path, mode=0o700, exist_ok=True)
        except OSError:
            return None
        if not is_private(Path(path)):
            return None
    return Checked(open_plain(path)[0]), path


def is_private(folder: Path) -> bool:
    """Whether only this user can write to a folder or replace it. For a folder that does not exist,
    whether this would hold once it is made."""
    folder = Path(os.path.realpath(folder))
    if folder.exists() and (folder.stat().st_uid != os.geteuid() or others_write(folder)):
        return False
    around = nearest(folder)
    # In a sticky folder, such as /tmp, users can rename only their own files.
    return not others_write(around) or bool(around.stat().st_mode & stat.S_ISVTX)


def nearest(folder: Path) -> Path:
    """The innermost existing folder that contains `folder`."""
    return next(place for place in Path(os.path.realpath(folder)).parents if place.exists())


def others_write(folder: Path) -> bool:
    """Whether the permissions of a folder let anyone but its owner write. A group whose number is
    that of the owner is taken for the owner's private group, which most systems make."""
    facts = folder.stat()
    group = facts.st_mode & stat.S_IWGRP and facts.st_gid != facts.st_uid
    return bool(facts.st_mode & stat.S_IWOTH or group)
