"""The fields of a source, and loading of sources by name."""

import numpy as np
import pytest

import data
from data.source import Source, from_array


def make(array, name="made", split="train", levels=256):
    return from_array(name, split, array, None, levels)


def test_from_array_describes_and_copies():
    array = np.arange(24, dtype=np.uint8).reshape(4, 2, 3, 1)
    source = from_array("made", "train", array, np.array([3, 1, 2, 0]), levels=24)
    assert (len(source), source.size, source.shape, source.levels) == (4, 4, (2, 3, 1), 24)
    assert source.labels.dtype == np.int32 and source.labels.tolist() == [3, 1, 2, 0]
    batch = source.fetch(np.array([2, 0, 2]))
    np.testing.assert_array_equal(batch, array[[2, 0, 2]])
    batch[:] = 0
    np.testing.assert_array_equal(source.fetch(np.arange(4)), np.arange(24).reshape(4, 2, 3, 1))


def test_fingerprint_tells_data_apart():
    base = np.arange(24, dtype=np.uint8).reshape(4, 2, 3, 1)
    last, first = base.copy(), base.copy()
    last[-1, 0, 0, 0] += 1
    first[0, 0, 0, 0] += 1
    other = [
        make(last),
        make(first),
        make(base, name="mode"),
        make(base, split="test"),
        make(base, levels=255),
        make(base[[0, 1, 1, 2, 3]]),
        make(base.reshape(4, 3, 2, 1)),
        make(base.astype(np.float32), levels=0),
    ]
    prints = [source.fingerprint for source in [make(base), *other]]
    assert len(set(prints)) == len(prints)
    assert make(base.copy()).fingerprint == prints[0]


def test_impossible_sources_are_refused():
    fetch = lambda indices: np.zeros((len(indices), 2), np.float32)
    with pytest.raises(ValueError, match="no examples"):
        Source("made", "train", fetch, None, 0, (2,), 0)
    with pytest.raises(ValueError, match="levels=1"):
        Source("made", "train", fetch, None, 3, (2,), 1)
    with pytest.raises(ValueError, match=r"3 examples but labels of shape \(4,\)"):
        Source("made", "train", fetch, np.zeros(4, np.int32), 3, (2,), 0)
    with pytest.raises(ValueError, match=r"holds the value 23: with levels=17"):
        make(np.arange(24, dtype=np.uint8).reshape(4, 6), levels=17)


def test_the_table_holds_every_loader_and_load_uses_it():
    assert set(data.SOURCES) == {"digits", "tfds", "idx", "image_folder", "npz"}
    assert data.load("digits", "test").fingerprint == data.SOURCES["digits"]("test").fingerprint


def test_an_unknown_name_gets_the_nearest_and_all():
    with pytest.raises(ValueError, match=r"'digit'; did you mean 'digits'\?.*image_folder.*tfds"):
        data.load("digit", "train")


def test_a_misspelt_argument_is_refused():
    with pytest.raises(TypeError, match="image_sise"):
        data.load("image_folder", "train", path=".", image_sise=8)


@pytest.mark.parametrize("name", ["idx", "image_folder", "npz"])
def test_a_missing_path_is_named(name, tmp_path):
    missing = tmp_path / "nowhere"
    with pytest.raises(FileNotFoundError, match=f"{missing}.*`path` must name"):
        data.load(name, "train", path=str(missing))


@pytest.mark.parametrize("name", ["idx", "image_folder", "npz"])
def test_an_unknown_split_is_answered_with_the_known(name, tmp_path):
    with pytest.raises(ValueError, match=r"'tets'; did you mean 'test'\? Known: test, train"):
        data.load(name, "tets", path=str(tmp_path))
