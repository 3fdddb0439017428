"""Standard output whose errors do not end a run: a terminal that closes, a pipe whose reader has
gone, a full disk under the log, a terminal that lacks a character."""

import io
from typing import TextIO


class Lasting(io.TextIOBase):
    """A text stream that drops all text after the first error in writing."""

    def __init__(self, stream: TextIO):
        self._stream: TextIO | None = stream

    def write(self, text: str) -> int:
        self._try(lambda stream: stream.write(text))
        return len(text)

    def flush(self) -> None:
        self._try(lambda stream: stream.flush())

    def isatty(self) -> bool:
        return self._stream is not None and self._stream.isatty()

    def fileno(self) -> int:
        if self._stream is None:
            raise io.UnsupportedOperation("fileno")
        return self._stream.fileno()

    @property
    def encoding(self) -> str:
        return getattr(self._stream, "encoding", None) or "utf-8"

    def _try(self, action) -> None:
        if self._stream is None:
            return
        try:
            action(self._stream)
        # The stream is closed already, which is not an OSError.
        except (OSError, ValueError):
            self._stream = None


def lasting(stream: TextIO) -> TextIO:
    """The stream with each line written at once. Characters that it lacks are written as escapes,
    and it never raises."""
    if isinstance(stream, io.TextIOWrapper):
        # A file or a pipe would otherwise get blocks of kilobytes, and lose the last one at a kill.
        stream.reconfigure(line_buffering=True, errors="backslashreplace")
    return stream if isinstance(stream, Lasting) else Lasting(stream)
