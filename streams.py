"""Standard output that a run survives: a terminal that closes, a pipe whose reader has gone, a full
disk under the log, a terminal without the characters of a sentence."""

import io
from typing import TextIO


class Lasting(io.TextIOBase):
    """A text stream that writes while it can, and is silent after the first error."""

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
        # Closed already, which is no OSError.
        except (OSError, ValueError):
            self._stream = None


def lasting(stream: TextIO) -> TextIO:
    """The stream as one that writes each line at once, shows what it has no character for as its
    number, and never raises."""
    if isinstance(stream, io.TextIOWrapper):
        # A file or a pipe would otherwise get it in blocks of kilobytes, and nothing at a kill.
        stream.reconfigure(line_buffering=True, errors="backslashreplace")
    return stream if isinstance(stream, Lasting) else Lasting(stream)
