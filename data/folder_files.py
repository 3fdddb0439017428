"""The image files below a folder, and their division into training and test split."""

import hashlib
import os
import pathlib

from data.image_file import printable

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"}
# Names of a subfolder for the test split, in lower or upper case; the first that exists is used.
HELD_OUT = ("test", "val", "valid", "validation")


def listed(root: pathlib.Path, seen: dict | None = None) -> list[str]:
    """Sorted paths, relative to `root`, of the images below it at any depth, without hidden ones.

    Links to folders are followed.

    Args:
        seen: folders visited before, by device and inode; the folders below `root` are added.

    Raises:
        ValueError: for a folder that is visited twice, as by a link to a folder above, since its
            images would count twice; for a name of an image that is no file, such as a pipe.
    """
    found, seen, waiting = [], {} if seen is None else seen, [pathlib.Path(root)]
    while waiting:
        folder = waiting.pop()
        about = folder.stat()
        known = seen.setdefault((about.st_dev, about.st_ino), folder)
        if known is not folder:
            raise ValueError(
                f"{printable(folder)} and {printable(known)} are one folder, whose images would "
                "count twice; remove the link."
            )
        for entry in os.scandir(folder):
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                waiting.append(pathlib.Path(entry.path))
            elif pathlib.Path(entry.name).suffix.lower() in SUFFIXES:
                if not entry.is_file():
                    raise ValueError(
                        f"{printable(entry.path)} is named as an image and is no file (a pipe, or "
                        "a link to nothing): remove it."
                    )
                found.append(pathlib.Path(entry.path).relative_to(root).as_posix())
    return sorted(found)


def digest_of_files(root: pathlib.Path, files: list[str]) -> str:
    """SHA-256 of the names and sizes of files, 16 hex digits.

    Times of modification are left out, since they change when the data are copied.
    """
    found = hashlib.sha256()
    for file in files:
        found.update(os.fsencode(file) + b"\0" + str((root / file).stat().st_size).encode() + b"\0")
    return found.hexdigest()[:16]


def split_folders(root: pathlib.Path) -> dict[str, pathlib.Path] | None:
    """Find the subfolders of the two splits: `train` and one of `HELD_OUT`, in lower or upper case.

    Returns:
        The folders by "train" and "test"; None if there is neither subfolder.

    Raises:
        ValueError: only one of the two exists. It might be the folder of a class.
    """
    named = {
        entry.name.lower(): pathlib.Path(entry.path) for entry in os.scandir(root) if entry.is_dir()
    }
    test = next((named[name] for name in HELD_OUT if name in named), None)
    train = named.get("train")
    if train is None and test is None:
        return None
    if train is None or test is None:
        there, other = (train, "'test'") if test is None else (test, "'train'")
        raise ValueError(
            f"{printable(root)} has a subfolder {there.name!r} and none named {other}; add it, or "
            f"name {printable(there)} itself, of which a part is then held out."
        )
    return {"train": train, "test": test}


def in_test(file: str, holdout: float) -> bool:
    """Whether a file belongs to the test split.

    The answer depends on a hash of the file's path below the folder, so a file stays in its split
    when other files are added.
    """
    # The bytes of the name are hashed, since a name need not be UTF-8.
    digest = hashlib.sha256(os.fsencode(file)).digest()
    return int.from_bytes(digest[:8]) / 2**64 < holdout
