"""Compiled programs are kept, so that a second start finds them; those of others are not run.

jax keeps a program under a name made of all that it was compiled from, and later runs whatever the
file of that name holds. So nobody else may write where they are kept; and each file begins with the
SHA-256 of its name and its content, which tells a file that was renamed, damaged or cut short: that
program is compiled again. Who can write as this user can still put any program there, as they can
put any line into this one.
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
    """A cache of jax's, of which is taken only what was put under the same name.

    Its files have an ending of their own, so that other programs may keep theirs in the folder.
    """

    def __init__(self, plain: CacheInterface):
        self._plain, self._path = plain, plain._path

    def get(self, key: str) -> bytes | None:
        """The program of that name; None where there is none, or another one."""
        name = f"{key}-checked"
        value = self._plain.get(name)
        if value is None or value[:DIGEST] != digest(name, value[DIGEST:]):
            return None
        return value[DIGEST:]

    def put(self, key: str, value: bytes) -> None:
        name = f"{key}-checked"
        if self.get(key) is None:
            # A wrong one would stay: jax leaves alone what is there.
            (self._path / f"{name}-cache").unlink(missing_ok=True)
        self._plain.put(name, digest(name, value) + value)


def digest(name: str, value: bytes) -> bytes:
    return hashlib.sha256(name.encode() + b"\0" + value).digest()


def keep_programs(folder: Path) -> None:
    """Lets jax keep compiled programs in `folder/.jax_cache`; in the user's own cache folder where
    others may write to `folder`; or where the user wants them, by `JAX_COMPILATION_CACHE_DIR`.

    A folder that others may write to is not used, which one line tells. Nothing is made before a
    program is to be kept.
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
    """From here on jax opens its cache by `opened`; to be called before anything is compiled."""
    compilation_cache.get_file_cache = opened


def opened(path: str) -> tuple[Checked, str] | None:
    """The cache in a folder, made for this user alone where there is none; None if others may
    write to it, or it cannot be made."""
    if "://" not in path:
        try:
            os.makedirs(path, mode=0o700, exist_ok=True)
        except OSError:
            return None
        if not is_private(Path(path)):
            return None
    return Checked(open_plain(path)[0]), path


def is_private(folder: Path) -> bool:
    """Whether this user alone can write to a folder, or put another one in its place; of one that
    is not there yet, whether they could once it is made."""
    folder = Path(os.path.realpath(folder))
    if folder.exists() and (folder.stat().st_uid != os.geteuid() or others_write(folder)):
        return False
    around = nearest(folder)
    # In a sticky folder, as /tmp is, nobody renames what is not theirs.
    return not others_write(around) or bool(around.stat().st_mode & stat.S_ISVTX)


def nearest(folder: Path) -> Path:
    """The folder around that one, or the next around it that exists."""
    return next(place for place in Path(os.path.realpath(folder)).parents if place.exists())


def others_write(folder: Path) -> bool:
    """Whether its permissions let anyone but its owner write. A group with the owner's number is
    that user's own, as most systems make one for each."""
    facts = folder.stat()
    group = facts.st_mode & stat.S_IWGRP and facts.st_gid != facts.st_uid
    return bool(facts.st_mode & stat.S_IWOTH or group)
