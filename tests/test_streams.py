"""An error of standard output does not end a run."""

import io
import os

import pytest

from streams import lasting


def text(file, encoding="utf-8"):
    return io.TextIOWrapper(io.FileIO(file, "w"), encoding=encoding)


def test_a_pipe_whose_reader_has_gone():
    read, write = os.pipe()
    stream = lasting(text(write))
    print("one", file=stream)
    assert os.read(read, 100) == b"one\n"
    os.close(read)
    for _ in range(3):
        print("two", file=stream, flush=True)


def test_a_full_disk():
    stream = lasting(text(os.open("/dev/full", os.O_WRONLY)))
    print("lost", file=stream, flush=True)
    assert not stream.isatty()


@pytest.mark.parametrize("encoding, shown", [("ascii", b"\\xb1\n"), ("utf-8", "±\n".encode())])
def test_a_character_that_the_terminal_does_not_have(encoding, shown):
    read, write = os.pipe()
    print("±", file=lasting(text(write, encoding)))
    assert os.read(read, 100) == shown


def test_it_is_wrapped_once():
    stream = lasting(io.StringIO())
    assert lasting(stream) is stream
