"""Standard output whose failures do not end a run: a terminal that closes, a pipe whose reader has
gone, a full disk under the log, a terminal that lacks some characters."""

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
        # Writing to a closed stream raises ValueError.
        except (OSError, ValueError):
            self._stream = None


def lasting(stream: TextIO) -> TextIO:
    """The stream, changed so that it writes each line at once, writes characters that its encoding
    lacks as escapes, and never raises an error."""
    if isinstance(stream, io.TextIOWrapper):
        # Files and pipes are otherwise written in blocks of kilobytes, which a kill would lose.
        stream.reconfigure(line_buffering=True, errors="backslashreplace")
    return stream if isinstance(stream, Lasting) else Lasting(stream)
