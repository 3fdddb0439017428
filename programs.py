"""The cache of compiled programs, for a faster second start. Programs of other users are not run.

jax keeps a program under a name derived from all that it was compiled from, and later runs the
content of the file of that name. So nobody else may write to the folder of the cache. Each file
begins with the SHA-256 of its name and its content, which reveals a file that was renamed, damaged
or cut short; such a program is compiled again. A program that runs as the same user can still
replace any file.
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
    """A cache of jax that returns only programs that were put under the same name.

    Its files have a suffix of their own, so that other programs may use the same folder.
    """

    def __init__(self, plain: CacheInterface):
        self._plain, self._path = plain, plain._path

    def get(self, key: str) -> bytes | None:
        """The program of that name; None if there is none, or if the file holds another one."""
        name = f"{key}-checked"
        value = self._plain.get(name)
        if value is None or value[:DIGEST] != digest(name, value[DIGEST:]):
            return None
        return value[DIGEST:]

    def put(self, key: str, value: bytes) -> None:
        name = f"{key}-checked"
        if self.get(key) is None:
            # The wrong file is deleted, because jax does not overwrite files.
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
    """Make jax open its cache by `opened`; to be called before anything is compiled."""
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
    # In a sticky folder, such as /tmp, nobody can rename the files of others.
    return not others_write(around) or bool(around.stat().st_mode & stat.S_ISVTX)


def nearest(folder: Path) -> Path:
    """The innermost existing folder that contains `folder`."""
    return next(place for place in Path(os.path.realpath(folder)).parents if place.exists())


def others_write(folder: Path) -> bool:
    """Whether the permissions of a folder let anyone but its owner write. A group with the owner's
    number counts as the owner's own, since most systems make such a group for each user."""
    facts = folder.stat()
    group = facts.st_mode & stat.S_IWGRP and facts.st_gid != facts.st_uid
    return bool(facts.st_mode & stat.S_IWOTH or group)
