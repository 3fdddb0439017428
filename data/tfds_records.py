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
    """The builder of a prepared data set, `load()`, with its descriptions read.

    Raises:
        ValueError: if the descriptions cannot be read.
    """
    try:
        builder = load()
        # Both descriptions are read when they are first used.
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
    """`indices -> records` of a data source, in that order.

    Args:
        source: the data source of TFDS, indexed by number.
        parts: the `file_instructions` of the split; the examples of the parts are consecutive.
        split: the name of the split in error sentences.

    The function raises ValueError for a record that cannot be read, with the name of its file.
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
    """The file that holds an example of a split."""
    for part in parts:
        if index < part.take:
            return part.filename
        index -= part.take
    return parts[-1].filename


def first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:200].rstrip('.')}"
