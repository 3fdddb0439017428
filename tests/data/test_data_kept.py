"""Headers of an image folder are read once, and again where a file has changed."""

import os

import numpy as np
import pytest
from PIL import Image

import data
from data import headers, kept


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A cache folder for this test, in which also a few files that are new are kept."""
    monkeypatch.setattr(kept, "HOME", str(tmp_path / "home"))
    monkeypatch.setattr(kept, "LEAST", 1)
    monkeypatch.setattr(kept, "SETTLED", 0)
    return tmp_path / "home"


@pytest.fixture
def folder(tmp_path):
    """Six pictures of different sizes; a PPM has as many bytes on its side as upright."""
    for i in range(6):
        save(tmp_path / "pictures" / f"{i}.ppm", 4, 5 + i)
    return tmp_path / "pictures"


@pytest.fixture
def read(monkeypatch):
    """The names of the files whose headers were read."""
    names, plain = [], headers.read_header

    def counted(file):
        names.append(file.name)
        return plain(file)

    monkeypatch.setattr(headers, "read_header", counted)
    return names


def save(file, height, width, mode="RGB"):
    file.parent.mkdir(exist_ok=True)
    Image.new(mode, (width, height)).save(file)


def load(folder, **options):
    options = {"image_size": 3, "holdout": 0.0, "workers": 1, **options}
    return data.load("image_folder", "train", path=str(folder), **options)


def known(folder, **options):
    return headers.read_headers(folder, "train", sorted(os.listdir(folder)), **options)


def test_headers_are_read_once(home, folder, read):
    for _ in range(2):
        sizes, channels = known(folder)
        assert sizes.tolist() == [[4, 5 + i] for i in range(6)] and channels.tolist() == [3] * 6
        assert sorted(read) == [f"{i}.ppm" for i in range(6)]
    assert len(load(folder)) == 6 and len(read) == 6
    assert load(folder).fetch(np.arange(6)).shape == (6, 3, 3, 3)


def test_another_place_of_the_same_files_is_another_folder(home, folder, read, monkeypatch):
    """But a path relative to the working folder is no other place."""
    known(folder)
    monkeypatch.chdir(folder.parent)
    load("pictures")
    assert len(read) == 6
    (folder.parent / "link").symlink_to(folder)
    load("link")
    assert len(read) == 6
    folder.rename(folder.parent / "moved")
    load("moved")
    assert len(read) == 12


def test_what_has_changed_is_read_again(home, folder, read):
    """Also a picture of as many bytes under the old time of modification."""
    known(folder)
    facts = os.stat(folder / "2.ppm")
    save(folder / "2.ppm", 7, 4)
    os.utime(folder / "2.ppm", ns=(facts.st_atime_ns, facts.st_mtime_ns))
    now = os.stat(folder / "2.ppm")
    assert (facts.st_size, facts.st_mtime_ns) == (now.st_size, now.st_mtime_ns)
    save(folder / "4.ppm", 9, 9)
    save(folder / "6.ppm", 1, 2)
    (folder / "0.ppm").unlink()
    for _ in range(2):
        sizes, _ = known(folder)
        assert sizes.tolist() == [[4, 6], [7, 4], [4, 8], [9, 9], [4, 10], [1, 2]]
        assert read[6:] == ["2.ppm", "4.ppm", "6.ppm"]


def test_what_has_just_changed_is_not_kept(home, folder, read, monkeypatch):
    monkeypatch.setattr(kept, "SETTLED", 10**12)
    known(folder)
    known(folder)
    assert len(read) == 12 and not home.exists()


def test_few_files_are_not_kept(home, folder, monkeypatch):
    monkeypatch.setattr(kept, "LEAST", 7)
    known(folder)
    assert not home.exists()


@pytest.mark.parametrize("harm", [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b"text"])
def test_a_damaged_index_is_passed_over(home, folder, read, harm):
    known(folder)
    (index,) = home.iterdir()
    index.write_bytes(harm(index.read_bytes()))
    for _ in range(2):
        assert known(folder)[0].tolist() == [[4, 5 + i] for i in range(6)]
        assert len(read) == 12


@pytest.mark.parametrize("place", ["file", "~nobody-of-this-name/cache"])
def test_a_home_that_cannot_be_written(home, folder, read, tmp_path, monkeypatch, place):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(kept, "HOME", place if place[0] == "~" else str(tmp_path / place))
    for count in (6, 12):
        assert known(folder)[0].tolist() == [[4, 5 + i] for i in range(6)]
        assert len(read) == count


def test_refusals_are_those_of_the_first_time(home, folder, read):
    """A file that is refused is refused again; what was read before it is kept."""
    Image.new("I;16", (4, 4)).save(folder / "5.png")
    said = set()
    for _ in range(2):
        with pytest.raises(ValueError, match=r"5\.png cannot be read .*not 8 bits") as found:
            load(folder)
        said.add(str(found.value))
    assert len(said) == 1 and read.count("5.png") == 2 and read.count("4.ppm") == 1
    (folder / "5.png").unlink()
    save(folder / "5.ppm", 4, 4, "L")
    for _ in range(2):
        with pytest.raises(ValueError, match=r"5\.ppm has channels 1, but .*0\.ppm has 3: all"):
            load(folder)
        with pytest.raises(ValueError, match=r"5\.ppm has .* \(4, 4\): crop=\(4, 5\) must fit"):
            load(folder, crop=(4, 5), num_channels=3, convert=True)
        with pytest.raises(ValueError, match=r"1\.ppm has .* \(4, 6\), but .*0\.ppm has \(4, 5\)"):
            load(folder, image_size=(), num_channels=3, convert=True)


def test_several_workers_read_the_same(home, folder, read):
    sizes, channels = known(folder, workers=4)
    assert sizes.tolist() == [[4, 5 + i] for i in range(6)] and channels.tolist() == [3] * 6
    known(folder)
    assert len(read) == 6
