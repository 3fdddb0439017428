"""Arrays from an .npz file."""

import tracemalloc
import zipfile

import numpy as np
import pytest
from numpy.lib import format as npy

import data
from data import npz_arrays

GREY = np.arange(20 * 2 * 3, dtype=np.uint8).reshape(20, 2, 3)
VECTORS = np.random.default_rng(0).normal(size=(20, 5))


def save(folder, **arrays):
    np.savez(folder / "some.npz", **arrays)
    return str(folder / "some.npz")


def everything(source):
    return source.fetch(np.arange(len(source)))


@pytest.mark.parametrize("name", ["x", "arr_0"])
def test_grey_images_get_a_channel_and_keep_their_values(tmp_path, name):
    source = data.load("npz", "train", path=save(tmp_path, **{name: GREY}), holdout=0)
    assert (source.size, source.shape, source.levels) == (20, (2, 3, 1), 256)
    assert everything(source).dtype == np.uint8
    np.testing.assert_array_equal(everything(source), GREY[..., None])


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_images_of_any_number_of_channels(tmp_path, channels):
    x = np.repeat(GREY[..., None], channels, axis=-1)
    source = data.load("npz", "train", path=save(tmp_path, x=x), holdout=0)
    np.testing.assert_array_equal(everything(source), x)


def test_float_vectors_are_continuous(tmp_path):
    source = data.load("npz", "train", path=save(tmp_path, x=VECTORS), holdout=0)
    assert (source.shape, source.levels) == ((5,), 0)
    assert everything(source).dtype == np.float32
    np.testing.assert_array_equal(everything(source), VECTORS.astype(np.float32))


def test_levels_are_read_and_wider_integers_narrowed(tmp_path):
    x = GREY.astype(np.int64) % 17
    source = data.load("npz", "train", path=save(tmp_path, x=x, levels=17), holdout=0)
    assert source.levels == 17 and everything(source).dtype == np.uint8
    np.testing.assert_array_equal(everything(source)[..., 0], x)
    x16 = GREY.astype(np.int64) * 500
    source = data.load("npz", "train", path=save(tmp_path, x=x16, levels=65536), holdout=0)
    assert everything(source).dtype == np.uint16
    np.testing.assert_array_equal(everything(source)[..., 0], x16)


def test_a_test_array_is_the_test_split_with_its_own_labels(tmp_path):
    path = save(tmp_path, x=GREY, y=np.arange(20), x_test=GREY[:4] + 1, y_test=[5, 6, 7, 8])
    train, test = data.load("npz", "train", path=path), data.load("npz", "test", path=path)
    np.testing.assert_array_equal(everything(train)[..., 0], GREY)
    np.testing.assert_array_equal(everything(test)[..., 0], GREY[:4] + 1)
    assert train.labels.tolist() == list(range(20)) and test.labels.tolist() == [5, 6, 7, 8]


def test_pairs(tmp_path):
    """Rows of `x` and `x1` stay together in both splits, and a batch has both ends of the pairs."""
    path = save(tmp_path, x=GREY, x1=GREY[::-1], y=np.arange(20))
    for split in ("train", "test"):
        source = data.load("npz", split, path=path, holdout=0.25)
        batch = data.Loader(source, 4, 0).batch(1)
        rows = batch["cond"]
        np.testing.assert_array_equal(batch["x0"][..., 0], GREY[rows])
        np.testing.assert_array_equal(batch["x1"][..., 0], GREY[::-1][rows])
    with pytest.raises(ValueError, match=r"`x1` has shape \(19, .* the two ends of pairs"):
        data.load("npz", "train", path=save(tmp_path, x=GREY, x1=GREY[1:]), holdout=0)


def test_without_a_test_array_some_rows_are_held_out(tmp_path):
    path = save(tmp_path, x=GREY, y=np.arange(20))
    train = data.load("npz", "train", path=path, holdout=0.25)
    test = data.load("npz", "test", path=path, holdout=0.25)
    assert (len(train), len(test)) == (15, 5)
    assert sorted([*train.labels, *test.labels]) == list(range(20))
    for source in (train, test):
        np.testing.assert_array_equal(everything(source)[..., 0], GREY[source.labels])
    assert test.labels.tolist() not in ([0, 1, 2, 3, 4], [15, 16, 17, 18, 19])


@pytest.mark.parametrize(
    "arrays, message",
    [
        ({"z": GREY}, r"holds \['z'\]: it needs an array called `x`"),
        ({"x": np.zeros(4)}, r"shape \(4,\); it must be \(N, D\)"),
        ({"x": np.zeros((1, 2, 3, 4, 5))}, r"shape \(1, 2, 3, 4, 5\)"),
        ({"x": GREY, "y": np.arange(19)}, r"shape \(19,\); they must be integers of shape \(20,\)"),
        ({"x": GREY, "y": np.zeros(20)}, r"labels are float64"),
        ({"x": GREY.astype(int)}, r"array is int64 and `levels` is None; give uint8"),
        ({"x": GREY, "levels": 17}, r"run from 0 to 119; with levels=17"),
        ({"x": GREY.astype(int) - 1, "levels": 256}, r"run from -1 to 118; with levels=256"),
        ({"x": VECTORS, "levels": 256}, r"`levels` is 256 but the array is float64"),
        ({"x": VECTORS * np.inf}, r"not finite"),
        ({"x": np.array(["a", "b"])[:, None]}, r"array is <U1"),
        ({"x": np.array([{}, []], object)[:, None]}, r"not a whole .npz file of plain arrays"),
        ({"x": GREY[:0]}, r"has no examples"),
        ({"x": np.float32(3.0)}, r"shape \(\); it must be \(N, D\)"),
        ({"x": GREY, "y": np.int64(3)}, r"shape \(\); they must be integers"),
        ({"x": GREY, "levels": np.array([17, 18])}, r"`levels` is int64 of shape \(2,\)"),
        ({"x": np.full((4, 2), 1e300)}, r"values up to 1e\+300, beyond float32"),
        ({"x": GREY, "y": np.arange(20) + 2**40}, r"labels run from 1099511627776"),
        ({"x": GREY, "y": np.arange(20) - 1}, r"labels run from -1"),
        ({"x": np.zeros((4, 0, 3))}, r"no side of 0"),
        ({"x": GREY, "x_test": VECTORS}, r"`x` is uint8 .* and `x_test` float64"),
        ({"x": GREY, "x_test": GREY[:, :1]}, r"must have one shape"),
        ({"x": np.zeros((4, 3, 8, 8), np.uint8)}, r"looks like \(N, C, H, W\)"),
        ({"x": np.zeros((4, 4, 32, 32), np.float32)}, r"looks like \(N, C, H, W\)"),
    ],
)
def test_other_files_are_answered_with_the_rule(tmp_path, arrays, message):
    with pytest.raises(ValueError, match=message):
        data.load("npz", "train", path=save(tmp_path, **arrays), holdout=0)


def test_damaged_files_are_one_sentence(tmp_path):
    path = save(tmp_path, x=GREY)
    file = tmp_path / "some.npz"
    whole = file.read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"text"):
        file.write_bytes(content)
        with pytest.raises(ValueError, match=f"{path} is not a whole .npz file"):
            data.load("npz", "train", path=path)


def test_what_nobody_asks_for_is_not_read(tmp_path):
    """A huge array beside the data is not unpacked."""
    path = save(tmp_path, x=GREY)
    announced = {"descr": "|u1", "fortran_order": False, "shape": (2**28,)}
    with (
        zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive,
        archive.open("bomb.npy", "w", force_zip64=True) as stream,
    ):
        npy.write_array_header_1_0(stream, announced)
        for _ in range(2**8):
            stream.write(bytes(2**20))
    tracemalloc.start()
    assert data.load("npz", "train", path=path, holdout=0).size == 20
    assert tracemalloc.get_traced_memory()[1] < 2**24
    tracemalloc.stop()


def test_what_an_array_announces_is_compared_with_what_there_is(tmp_path):
    file = tmp_path / "some.npz"
    with zipfile.ZipFile(file, "w") as archive, archive.open("x.npy", "w") as stream:
        npy.write_array_header_1_0(
            stream, {"descr": "<f4", "fortran_order": False, "shape": (2**38, 2)}
        )
        stream.write(bytes(64))
    with pytest.raises(ValueError, match=r"announces float32 of shape .* bytes, and holds 64"):
        data.load("npz", "train", path=str(file))


@pytest.mark.parametrize("place, value", [(6, 1), (8, 99)])
def test_encrypted_or_with_another_compression(tmp_path, place, value):
    """A flag marks encryption and a number the compression. Both stand in the header of the member
    and in the table at the end."""
    path = save(tmp_path, x=GREY)
    content = bytearray((tmp_path / "some.npz").read_bytes())
    table = content.index(b"PK\x01\x02")
    content[place] = content[table + place + 2] = value
    (tmp_path / "some.npz").write_bytes(content)
    with pytest.raises(ValueError, match=f"{path} is not a whole .npz file"):
        data.load("npz", "train", path=path)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("block", [1, 50, 10**6])
def test_blocks_of_any_size_give_the_same(tmp_path, monkeypatch, order, block):
    """A row a block, a few rows with a rest, all; in Fortran's order rows do not lie together."""
    monkeypatch.setattr(npz_arrays, "BLOCK", block)
    x = np.asarray(np.random.default_rng(0).integers(0, 17, (23, 2, 3)), order=order)
    path = save(tmp_path, x=x, x1=x[::-1], y=np.arange(23), levels=17)
    for split, count in (("train", 16), ("test", 7)):
        source = data.load("npz", split, path=path, holdout=0.3)
        assert len(source) == count
        np.testing.assert_array_equal(everything(source)[..., 0], x[source.labels])
        ends = source.fetch_x1(np.arange(count))
        np.testing.assert_array_equal(ends[..., 0], x[::-1][source.labels])


@pytest.mark.parametrize("dtype, held", [(np.uint8, 1), (np.int64, 1), (np.float64, 4)])
def test_no_more_is_held_than_the_examples_of_a_split(tmp_path, monkeypatch, dtype, held):
    """4 MiB or more are neither held twice, nor in a wider dtype, nor for another split."""
    monkeypatch.setattr(npz_arrays, "BLOCK", 2**16)
    monkeypatch.setattr(data.source, "PASSED", 2**16)
    size, width = 2**12, 2**10
    path = save(tmp_path, x=np.ones((size, width), dtype), **{} if held == 4 else {"levels": 17})
    for split, share in (("train", 0.75), ("test", 0.25)):
        tracemalloc.start()
        source = data.load("npz", split, path=path, holdout=0.25)
        assert len(source) == share * size and source.identity["digest"]
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert share * size * width * held < peak < share * size * width * held + 2**19


def test_a_flipped_bit_is_told(tmp_path):
    path = save(tmp_path, x=GREY)
    content = bytearray((tmp_path / "some.npz").read_bytes())
    content[content.index(GREY.tobytes()) + 100] ^= 4
    (tmp_path / "some.npz").write_bytes(content)
    with pytest.raises(ValueError, match=f"{path} is not a whole .npz file .*CRC"):
        data.load("npz", "train", path=path)


def test_an_empty_test_split_says_why(tmp_path):
    with pytest.raises(ValueError, match=r"no `x_test`, and holdout=0 of its 20 rows is none"):
        data.load("npz", "test", path=save(tmp_path, x=GREY), holdout=0)
    with pytest.raises(ValueError, match=r"holdout=1"):
        data.load("npz", "test", path=save(tmp_path, x=GREY), holdout=1)
