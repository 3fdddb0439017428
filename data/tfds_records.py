"""Records of a prepared TFDS data set by their number; errors name the file and the example.

array_record keeps a hash of every record and compares it at each read. The errors that TFDS and the
library then raise are of many kinds, and name neither the file nor the example.
"""

import pathlib
from collections.abc import Callable, Sequence
from typing import Any

Record = dict[str, Any]
MEND = "copy it again, or remove the folder and prepare it again"


def described(folder: pathlib.Path, load: Callable[[], Any]) -> Any:
    """Return `load()`, the builder of a prepared data set, after reading its descriptions.

    Args:
        folder: the folder of the data set, for the error sentence.

    Raises:
        ValueError: the descriptions are damaged.
        OSError: a file cannot be opened.
    """
    try:
        builder = load()
        # TFDS reads splits and features only when they are accessed.
        for split in builder.info.splits.values():
            _ = split.file_instructions
        list(builder.info.features)
    except OSError:
        raise
    except Exception as error:
        raise ValueError(
            f"{folder} is damaged: its dataset_info.json or features.json cannot be understood "
            f"({first_line(error)}); {MEND}."
        ) from error
    return builder


def reader(source: Sequence[Record], parts: Sequence[Any], split: str) -> Callable:
    """Make the function `indices -> records`, which keeps the order of the indices.

    The function raises ValueError, with the file, if a record cannot be read.

    Args:
        source: a data source of TFDS, which returns records by index.
        parts: the `file_instructions` of the split, in the order of its examples.
        split: name of the split in the error sentence.
    """

    def read(indices: Sequence[int]) -> list[Record]:
        indices = [int(i) for i in indices]
        try:
            return source.__getitems__(indices)
        except MemoryError:
            raise
        except Exception as error:
            bad = next((i for i in indices if not readable(source, i)), indices[0])
            raise ValueError(
                f"{file_of(parts, bad)} is damaged: example {bad} of the split '{split}' cannot "
                f"be read ({first_line(error)}); {MEND}."
            ) from error

    return read


def readable(source: Sequence[Record], index: int) -> bool:
    try:
        source.__getitems__([index])
    except Exception:
        return False
    return True


def file_of(parts: Sequence[Any], index: int) -> str:
    """The name of the file that holds example `index` of a split with these `file_instructions`."""
    for part in parts:
        if index < part.take:
            return part.filename
        index -= part.take
    return parts[-1].filename


def first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:200].rstrip('.')}"
