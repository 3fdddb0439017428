"""A picture that cannot be read without loss is refused, and so is an ambiguous folder."""

import io
import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

import data
from data.image_file import read_header, read_pixels

# EXIF orientation 6, of a turned camera: the first stored row is the right column of the picture.
TURNED = 6
UPRIGHT = np.random.default_rng(0).integers(0, 256, (4, 2, 3)).astype(np.uint8)


def stored(image: np.ndarray) -> Image.Image:
    """Return the pixels as a turned camera stores them. For orientation 6 a turn by -90 degrees
    shows the picture upright."""
    return Image.fromarray(np.ascontiguousarray(np.rot90(image)))


def note() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = TURNED
    return exif


def chunk(kind: bytes, body: bytes) -> bytes:
    check = zlib.crc32(kind + body)
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", check)


def png(depth: int, colour: int, channels: int) -> bytes:
    """A PNG of zeros, 2 x 3, with `depth` bits per channel."""
    rows = b"".join(bytes(1 + 2 * channels * depth // 8) for _ in range(3))
    head = struct.pack(">IIBBBBB", 2, 3, depth, colour, 0, 0, 0)
    parts = [chunk(b"IHDR", head), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize("name", ["a.png", "a.webp", "a.tif"])
def test_a_picture_is_upright_whatever_its_format(tmp_path, name):
    lossless = {"lossless": True} if name.endswith("webp") else {}
    stored(UPRIGHT).save(tmp_path / name, exif=note(), **lossless)
    assert read_header(tmp_path / name) == ((4, 2), 3)
    np.testing.assert_array_equal(read_pixels(tmp_path / name, 3), UPRIGHT)


def test_a_note_behind_the_pixels_of_a_png_is_heeded(tmp_path):
    made = io.BytesIO()
    stored(UPRIGHT).save(made, "PNG")
    end = chunk(b"IEND", b"")
    behind = chunk(b"eXIf", note().tobytes().removeprefix(b"Exif\0\0"))
    (tmp_path / "a.png").write_bytes(made.getvalue().removesuffix(end) + behind + end)
    assert read_header(tmp_path / "a.png") == ((4, 2), 3)
    np.testing.assert_array_equal(read_pixels(tmp_path / "a.png", 3), UPRIGHT)


@pytest.mark.parametrize("name", ["a.jpg", "a.png"])
def test_a_header_is_read_without_the_pixels(tmp_path, name):
    """Of a file whose pixels are cut off, the size is known; the pixels are missed by name."""
    noise = np.random.default_rng(0).integers(0, 256, (60, 80, 3)).astype(np.uint8)
    made = io.BytesIO()
    Image.fromarray(noise).save(made, Image.registered_extensions()[name[1:]])
    (tmp_path / name).write_bytes(made.getvalue()[: len(made.getvalue()) // 2])
    assert read_header(tmp_path / name) == ((60, 80), 3)
    with pytest.raises(ValueError, match=f"{name} cannot be read as an image"):
        read_pixels(tmp_path / name, 3)


def tiff_of_16_bits() -> bytes:
    """An RGB TIFF of zeros, 2 x 3, with 16 bits per channel."""
    entries = [(256, 2), (257, 3), (259, 1), (262, 2), (277, 3), (278, 3)]
    first = 8 + 2 + 12 * (len(entries) + 3) + 4
    found = [struct.pack("<HHIHH", tag, 3, 1, value, 0) for tag, value in entries]
    found += [struct.pack("<HHII", 258, 3, 3, first), struct.pack("<HHII", 273, 4, 1, first + 6)]
    found += [struct.pack("<HHII", 279, 4, 1, 36)]
    body = struct.pack("<H", len(found)) + b"".join(sorted(found)) + struct.pack("<I", 0)
    return b"II*\0" + struct.pack("<I", 8) + body + struct.pack("<HHH", 16, 16, 16) + bytes(36)


DEEP = {
    "rgb.png": png(16, 2, 3),
    "rgba.png": png(16, 6, 4),
    "la.png": png(16, 4, 2),
    "grey.png": png(16, 0, 1),
    "rgb.ppm": b"P6\n2 3\n65535\n" + bytes(36),
    "thousand.ppm": b"P6\n2 3\n1000\n" + bytes(36),
    "rgb.tif": tiff_of_16_bits(),
}


@pytest.mark.parametrize("name", DEEP)
def test_sixteen_bits_are_refused_by_name(tmp_path, name):
    (tmp_path / name).write_bytes(DEEP[name])
    with pytest.raises(ValueError, match=f"{name} cannot be read .* not 8 bits a channel"):
        read_header(tmp_path / name)


def test_eight_bits_of_the_same_formats_are_read(tmp_path):
    for name, found, channels in (
        ("rgb.png", png(8, 2, 3), 3),
        ("la.png", png(8, 4, 2), 2),
        ("rgb.ppm", b"P6\n2 3\n255\n" + bytes(18), 3),
        ("hundred.ppm", b"P6\n2 3\n100\n" + bytes(18), 3),
    ):
        (tmp_path / name).write_bytes(found)
        assert read_header(tmp_path / name) == ((3, 2), channels)


@pytest.mark.parametrize("name", ["a.tif", "a.gif", "a.webp", "a.png"])
def test_several_pages_are_refused_by_name(tmp_path, name):
    pages = [Image.new("RGB", (4, 4), colour) for colour in ("black", "red", "white")]
    pages[0].save(tmp_path / name, save_all=True, append_images=pages[1:])
    with pytest.raises(ValueError, match=f"{name} cannot be read .* 3 pages"):
        read_header(tmp_path / name)


def load(folder, split="train", **kwargs):
    return data.load("image_folder", split, path=str(folder), **kwargs)


def fill(folder, count=3, size=(4, 4)):
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        Image.new("L", size, i).save(folder / f"{i}.png")


@pytest.mark.parametrize("names", [("train", "val"), ("train", "validation"), ("Train", "Test")])
def test_names_of_the_splits(tmp_path, names):
    for name, count in zip(names, (5, 2)):
        fill(tmp_path / name, count)
    assert (load(tmp_path).size, load(tmp_path, "test").size) == (5, 2)


def test_a_split_without_the_other_is_refused(tmp_path):
    """A folder with only one of the splits is refused. With `class_folders` the name of the split
    would become a class."""
    fill(tmp_path / "train")
    with pytest.raises(ValueError, match="a subfolder 'train' and none named 'test'"):
        load(tmp_path, class_folders=True)


def test_a_link_to_a_folder_above_is_refused(tmp_path):
    fill(tmp_path / "x")
    (tmp_path / "x" / "again").symlink_to(tmp_path)
    with pytest.raises(ValueError, match="are one folder"):
        load(tmp_path)


def test_one_folder_for_both_splits_is_refused(tmp_path):
    fill(tmp_path / "train")
    (tmp_path / "test").symlink_to(tmp_path / "train")
    with pytest.raises(ValueError, match="are one folder"):
        load(tmp_path, "test")


def test_a_name_that_is_not_utf8(tmp_path):
    """A file whose name is not UTF-8 is read, and an error about it shows the byte."""
    fill(tmp_path, 2)
    name = os.fsdecode(b"\xff.png")
    Image.new("L", (4, 4), 9).save(os.path.join(tmp_path, name))
    assert load(tmp_path, holdout=0.0).fetch(np.arange(3)).max() == 9
    Image.new("RGB", (4, 4), 9).save(os.path.join(tmp_path, name))
    with pytest.raises(ValueError) as found:
        load(tmp_path, holdout=0.0)
    assert "\\xff.png" in str(found.value) and str(found.value).encode()


def test_a_pipe_named_as_an_image_is_refused(tmp_path):
    fill(tmp_path)
    os.mkfifo(tmp_path / "z.png")
    with pytest.raises(ValueError, match=r"z\.png is named as an image and is no file"):
        load(tmp_path)


def test_a_picture_that_changes_its_size_is_named(tmp_path):
    fill(tmp_path)
    source = load(tmp_path, holdout=0.0)
    Image.new("L", (6, 5), 1).save(tmp_path / "1.png")
    with pytest.raises(ValueError, match=r"1\.png has .* \(5, 6\) and had \(4, 4\)"):
        source.fetch(np.arange(3))
