"""IDX files. The tests write them byte by byte from the description of the format."""

import gzip
import tracemalloc

import numpy as np
import pytest

import data
from data.idx import read_idx

# Two images of 2x3 pixels: magic 00 00 08 03, then the sizes, big-endian.
IMAGES = bytes.fromhex("00000803 00000002 00000002 00000003 000102030405 fafbfcfdfeff")
LABELS = bytes.fromhex("00000801 00000002 0907")


def write(folder, images=IMAGES, labels=LABELS, stem="train", end="", mark="-"):
    pack = gzip.compress if end == ".gz" else bytes
    (folder / f"{stem}-images{mark}idx3-ubyte{end}").write_bytes(pack(images))
    if labels is not None:
        (folder / f"{stem}-labels{mark}idx1-ubyte{end}").write_bytes(pack(labels))
    return str(folder)


@pytest.mark.parametrize("end", ["", ".gz"])
@pytest.mark.parametrize("split, stem", [("train", "train"), ("test", "t10k")])
@pytest.mark.parametrize("mark", ["-", "."])
def test_images_and_labels_are_those_written(tmp_path, split, stem, end, mark):
    source = data.load("idx", split, path=write(tmp_path, stem=stem, end=end, mark=mark))
    assert (source.size, source.shape, source.levels) == (2, (2, 3, 1), 256)
    batch = source.fetch(np.array([0, 1]))
    assert batch.dtype == np.uint8
    expected = [[[0, 1, 2], [3, 4, 5]], [[250, 251, 252], [253, 254, 255]]]
    np.testing.assert_array_equal(batch[..., 0], expected)
    assert source.labels.tolist() == [9, 7]


def test_labels_may_be_absent(tmp_path):
    assert data.load("idx", "train", path=write(tmp_path, labels=None)).labels is None


def test_a_missing_file_is_named(tmp_path):
    path = write(tmp_path)
    with pytest.raises(FileNotFoundError, match=f"No t10k-images-idx3-ubyte .* in {path}"):
        data.load("idx", "test", path=path)


def test_a_wrong_magic_number_is_shown(tmp_path):
    path = write(tmp_path, images=b"\x89PNG" + IMAGES)
    with pytest.raises(ValueError, match=r"begins with the bytes 89 50 4e 47.*00 00 08 03"):
        data.load("idx", "train", path=path)


def test_labels_in_place_of_images_are_noticed(tmp_path):
    path = write(tmp_path, images=LABELS)
    with pytest.raises(ValueError, match=r"begins with the bytes 00 00 08 01.*00 00 08 03"):
        data.load("idx", "train", path=path)


@pytest.mark.parametrize("end", ["", ".gz"])
@pytest.mark.parametrize("kept", range(4, len(IMAGES)))
def test_a_file_cut_short_anywhere_is_noticed(tmp_path, kept, end):
    path = write(tmp_path, images=IMAGES[:kept], end=end)
    with pytest.raises(ValueError, match=r"train-images.* is cut short.*fetch it again"):
        data.load("idx", "train", path=path)


def test_the_numbers_of_bytes_are_named(tmp_path):
    path = write(tmp_path, images=IMAGES[:-1])
    with pytest.raises(ValueError, match=r"shape \(2, 2, 3\), 12 bytes, and holds 11"):
        data.load("idx", "train", path=path)


def test_an_empty_file_is_noticed(tmp_path):
    with pytest.raises(ValueError, match=r"begins with the bytes \(none\)"):
        data.load("idx", "train", path=write(tmp_path, images=b""))


def test_a_file_too_long_is_noticed(tmp_path):
    with pytest.raises(ValueError, match=r"is too long: .* 12 bytes, and holds 13"):
        data.load("idx", "train", path=write(tmp_path, images=IMAGES + b"x"))


@pytest.mark.parametrize("damage", ["cut", "flipped", "garbled", "not gzip"])
def test_damaged_gzip_is_one_sentence(tmp_path, damage):
    whole = gzip.compress(IMAGES)
    middle = len(whole) // 2
    flipped = whole[:middle] + bytes([whole[middle] ^ 255]) + whole[middle + 1 :]
    contents = {
        "cut": whole[:middle],
        "flipped": flipped,
        "garbled": whole[:10] + b"\xff" * 20,
        "not gzip": IMAGES,
    }
    file = tmp_path / "train-images-idx3-ubyte.gz"
    file.write_bytes(contents[damage])
    with pytest.raises(ValueError, match=f"{file} is damaged or cut short"):
        read_idx(file, ndim=3)


def test_another_number_of_labels_is_noticed(tmp_path):
    path = write(tmp_path, labels=bytes.fromhex("00000801 00000003 090705"))
    with pytest.raises(ValueError, match=r"has 3 labels but .* has 2 images"):
        data.load("idx", "train", path=path)


def test_a_gzip_bomb_is_not_unpacked(tmp_path):
    """A file announces 12 bytes and holds far more. Reading it unpacks only enough to see this."""
    path = write(tmp_path, images=IMAGES + bytes(2**26), end=".gz")
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"is too long: .* 12 bytes, and holds 13 or more"):
        data.load("idx", "train", path=path)
    assert tracemalloc.get_traced_memory()[1] < 2**22
    tracemalloc.stop()
