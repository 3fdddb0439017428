"""A failed write leaves the earlier file as it was, and no other file beside it."""

import ast
import errno
import os
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image
from test_layers import FILES, ROOT, part_of

from evaluation.metrics.frechet import Moments
from evaluation.metrics.statistics import save_moments
from evaluation.report.page import write_page
from evaluation.report.pictures import save_png, trajectory_figure
from whole_files import put, put_arrays, writing


def full(*given, **_):
    """Replace `np.savez` and others: write some bytes to a given file, then raise "disk full"."""
    for part in given:
        if hasattr(part, "write"):
            part.write(b"half of it")
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


MOMENTS = Moments("pixels", 3, np.zeros(2), np.eye(2))
# Functions that write, and the function below them that fails.
WRITERS = {
    "arrays": (lambda path: put_arrays(path, x=np.zeros(3)), (np, "savez")),
    "moments": (lambda path: save_moments(path, MOMENTS), (np, "savez")),
    "picture": (lambda path: save_png(path, np.zeros((8, 8), np.uint8)), (Image.Image, "save")),
    "figure": (
        lambda path: trajectory_figure(np.zeros((2, 1, 8, 8, 1)), [1.0, 0.5], path),
        (Figure, "savefig"),
    ),
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk(tmp_path, monkeypatch, name):
    write, fails = WRITERS[name]
    path = tmp_path / "file.npz"
    write(path)
    before = path.read_bytes()
    monkeypatch.setattr(*fails, full)
    with pytest.raises(OSError, match=r"could not be written \(No space left.*before is whole"):
        write(path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]
    with pytest.raises(OSError, match=r"new\.npz could not be written \(No space left[^;]*$"):
        write(tmp_path / "new.npz")
    assert list(tmp_path.iterdir()) == [path]


def test_a_page_that_cannot_be_replaced(tmp_path, monkeypatch):
    """The last step of a write, the renaming, fails."""
    path = tmp_path / "report.html"
    write_page(path, {"name": "first"}, {}, [])
    monkeypatch.setattr(os, "replace", full)
    before = path.read_text()
    with pytest.raises(OSError):
        write_page(path, {"name": "second"}, {}, [])
    assert path.read_text() == before and "first" in before
    assert list(tmp_path.iterdir()) == [path]


def test_whatever_is_raised_midway(tmp_path):
    """Errors other than OSError, and the end of the program, are raised unchanged."""
    put(tmp_path / "a", "earlier")
    for error in (ZeroDivisionError("mine"), KeyboardInterrupt()):
        with pytest.raises(type(error)) as raised, writing(tmp_path / "a") as file:
            file.write(b"new")
            raise error
        assert raised.value is error
        assert (tmp_path / "a").read_text() == "earlier" and len(list(tmp_path.iterdir())) == 1


def test_what_is_written(tmp_path):
    put(tmp_path / "text", "σ")
    assert (tmp_path / "text").read_bytes() == b"\xcf\x83"
    put_arrays(tmp_path / "x.npz", x=np.arange(3))
    assert np.load(tmp_path / "x.npz")["x"].tolist() == [0, 1, 2]
    with pytest.raises(FileNotFoundError, match=r"nowhere/text could not be written"):
        put(tmp_path / "nowhere" / "text", "")


def test_links_and_devices_stay(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "target")
    put(tmp_path / "link", "through")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "target").read_text() == "through"
    put(os.devnull, "gone")
    assert Path(os.devnull).is_char_device()


# Calls that write to memory and not to a file.
IN_MEMORY = {("parallel/processes.py", "savez"), ("whole_files.py", "savez")}
PLAIN = ("write_text", "write_bytes", "savez", "savez_compressed", "tofile")


def test_nothing_is_written_in_another_way():
    """All packages write by `whole_files`, except `benchmarks/`, whose files no program reads."""
    found = {
        (file, node.func.attr)
        for file in FILES
        if part_of(file) not in ("tests", "benchmarks")
        for node in ast.walk(ast.parse((ROOT / file).read_text()))
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") in PLAIN
    }
    assert found == IN_MEMORY
