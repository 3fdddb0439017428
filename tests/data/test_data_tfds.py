"""A real data set, which the tests prepare as array_record, and missing or damaged data sets.

TFDS gets the images as Pillow images, because it can write these without TensorFlow.
"""

import importlib.abc
import json
import os
import pathlib
import shutil
import socket
import sys

import numpy as np
import pytest
from PIL import Image

import data
from data import kept

tfds = pytest.importorskip("tensorflow_datasets")
pytest.importorskip("array_record")

N_TRAIN, N_TEST = 20, 5


class TensorFlowWatch(importlib.abc.MetaPathFinder):
    """Record and forbid every import of TensorFlow."""

    def __init__(self):
        self.wanted = []

    def find_spec(self, fullname, path=None, target=None):
        if fullname.split(".")[0] == "tensorflow":
            self.wanted.append(fullname)
            raise ModuleNotFoundError("TensorFlow is not to be imported")
        return None


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(self, address):
        raise AssertionError(f"a connection to {address} was tried")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket.socket, "connect_ex", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *a, **k: refuse(None, a))


@pytest.fixture(autouse=True)
def no_tensorflow(monkeypatch):
    watch = TensorFlowWatch()
    for name in [name for name in sys.modules if name.split(".")[0] == "tensorflow"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [watch, *sys.meta_path])
    yield
    assert not watch.wanted


def pixels(i):
    return np.arange(6 * 4 * 3, dtype=np.uint8).reshape(6, 4, 3) + np.uint8(i)


def prepare(data_dir, release="1.0.0", extra=0, varying=False):
    """Write a data set in which the label is the number of the image."""

    class TinyImages(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        # If the module's name had a dot, TFDS would look for the files of a package `tests`.
        __module__ = __name__.rpartition(".")[-1]
        name = "tiny_images"
        VERSION = tfds.core.Version(release)

        def _info(self):
            shape = (None, None, 3) if varying else (6, 4, 3)
            features = {
                "image": tfds.features.Image(shape=shape),
                "label": tfds.features.ClassLabel(num_classes=100),
                "vector": tfds.features.Tensor(shape=(2,), dtype=np.float32),
                "name": tfds.features.Text(),
            }
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict(features)
            )

        def _split_generators(self, dl_manager):
            return {"train": self._some(0, N_TRAIN + extra), "test": self._some(50, 50 + N_TEST)}

        def _some(self, start, stop):
            for i in range(start, stop):
                image = Image.fromarray(pixels(i)[: 6 - i % 2] if varying else pixels(i))
                vector = np.array([i, -i], np.float32)
                yield i, {"image": image, "label": i, "vector": vector, "name": f"image {i}"}

        def _generate_examples(self):
            raise NotImplementedError

    TinyImages(data_dir=str(data_dir), file_format="array_record").download_and_prepare()


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfds")
    prepare(folder)
    return folder


@pytest.fixture
def own_copy(prepared, tmp_path):
    """A copy of the data set, which a test may damage, and the folder of its only version."""
    shutil.copytree(prepared, tmp_path / "data")
    return tmp_path / "data", tmp_path / "data/tiny_images/1.0.0"


def load(folder, split="train", dataset="tiny_images", **kwargs):
    return data.load("tfds", split, name=dataset, path=str(folder), **kwargs)


def test_images_and_labels_are_those_written(prepared):
    train = load(prepared, label_key="label")
    test = load(prepared, "test", label_key="label")
    assert (train.size, test.size, train.shape, train.levels) == (20, 5, (6, 4, 3), 256)
    assert sorted(train.labels.tolist()) == list(range(20))
    assert sorted(test.labels.tolist()) == list(range(50, 55))
    for source in (train, test):
        batch = source.fetch(np.arange(len(source)))
        assert batch.dtype == np.uint8
        np.testing.assert_array_equal(batch, np.stack([pixels(i) for i in source.labels]))
    order = np.array([7, 0, 7, 19])
    np.testing.assert_array_equal(
        train.fetch(order), np.stack([pixels(i) for i in train.labels])[order]
    )


def test_labels_are_read_only_if_asked(prepared):
    assert load(prepared).labels is None


def test_labels_are_read_once(prepared, own_copy, monkeypatch, tmp_path):
    """And again where a file has changed, even under its old time of modification."""
    folder, version = own_copy
    for name, value in {"HOME": str(tmp_path / "home"), "LEAST": 1, "SETTLED": 0}.items():
        monkeypatch.setattr(kept, name, value)
    made, plain = [], data.tfds.records
    monkeypatch.setattr(data.tfds, "records", lambda *a: made.append(a) or plain(*a))
    wanted = load(prepared, label_key="label").labels.tolist()
    for read in (2, 1):  # images and labels, then images alone
        made.clear()
        assert load(folder, label_key="label").labels.tolist() == wanted and len(made) == read
        assert load(folder, "train[4:7]", label_key="label").labels.tolist() == wanted[4:7]
    file = shard(version)
    facts, content = file.stat(), file.read_bytes()
    file.write_bytes(content)
    os.utime(file, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    made.clear()
    assert load(folder, label_key="label").labels.tolist() == wanted and len(made) == 2


def test_parts_of_splits(prepared):
    whole = load(prepared, label_key="label").labels.tolist()
    assert load(prepared, "train[:25%]", label_key="label").labels.tolist() == whole[:5]
    assert load(prepared, "train[4:7]", label_key="label").labels.tolist() == whole[4:7]
    assert len(load(prepared, "train+test")) == 25


def test_another_feature_may_be_the_data(prepared):
    source = load(prepared, image_key="vector", label_key="label")
    assert (source.shape, source.levels) == ((2,), 0)
    batch = source.fetch(np.arange(20))
    assert batch.dtype == np.float32
    np.testing.assert_array_equal(batch, np.stack([source.labels, -source.labels], axis=1))


def test_images_are_resized(prepared):
    source = load(prepared, image_size=(3, 2))
    assert source.shape == (3, 2, 3)
    # A symmetric filter keeps the mean of a ramp.
    full = load(prepared).fetch(np.arange(20)).mean((1, 2))
    np.testing.assert_allclose(source.fetch(np.arange(20)).mean((1, 2)), full, atol=1)


def test_images_of_varying_size_need_a_size(tmp_path):
    prepare(tmp_path, varying=True)
    with pytest.raises(ValueError, match=r"shape \(None, None, 3\).*give `image_size`"):
        load(tmp_path)
    assert load(tmp_path, image_size=4).fetch(np.arange(20)).shape == (20, 4, 4, 3)


def test_the_latest_version_is_taken_unless_one_is_named(tmp_path):
    for extra, release in enumerate(["1.0.0", "1.2.0", "1.10.0"]):
        prepare(tmp_path, release, extra)
    assert len(load(tmp_path)) == N_TRAIN + 2
    assert len(load(tmp_path, dataset="tiny_images:1.2.0")) == N_TRAIN + 1
    with pytest.raises(FileNotFoundError, match=r"Version 3.0.0 .* 1.0.0, 1.10.0, 1.2.0"):
        load(tmp_path, dataset="tiny_images:3.0.0")


@pytest.mark.parametrize("within", [1, 3])
def test_a_batch_reader_with_several_threads_gives_the_same(prepared, within):
    """Several threads beside each other, each with one or with three for its own batch."""
    loader = data.Loader(load(prepared, workers=1), batch_size=7, seed=0)
    several = data.Loader(load(prepared, workers=within), batch_size=7, seed=0)
    items = several.iterate(workers=4, prefetch=6)
    for step in range(30):
        np.testing.assert_array_equal(next(items)["x0"], loader.batch(step)["x0"])
    items.close()


@pytest.mark.parametrize("exists", [True, False])
def test_a_known_data_set_that_is_not_prepared(tmp_path, exists):
    """The error needs only the directory. A fixture fails the test if the network is used."""
    folder = tmp_path if exists else tmp_path / "nowhere"
    with pytest.raises(FileNotFoundError) as caught:
        load(folder, dataset="cifar10")
    message = str(caught.value)
    assert f"No prepared cifar10 in {folder}" in message
    assert f"tfds build cifar10 --file_format=array_record --data_dir={folder}" in message
    assert "download_and_prepare" in message and "\n" not in message


def test_the_directory_may_come_from_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "here"))
    with pytest.raises(FileNotFoundError, match=f"No prepared mnist in {tmp_path / 'here'}"):
        data.load("tfds", "train", name="mnist")


@pytest.mark.parametrize("wrong, near", [("cifar1O", "'cifar10'"), ("tiny_image", "'tiny_images'")])
def test_an_unknown_data_set_gets_the_nearest_name(prepared, wrong, near):
    with pytest.raises(ValueError, match=f"'{wrong}'; did you mean {near}"):
        load(prepared, dataset=wrong)


@pytest.mark.parametrize(
    "split, message",
    [
        ("tets", r"'tets'; did you mean 'test'\? Known: test, train"),
        ("train[:3", r"cannot read the split 'train\[:3'"),
        ("train[:0]", r"'train\[:0\]' of tiny_images is empty"),
    ],
)
def test_wrong_splits(prepared, split, message):
    with pytest.raises(ValueError, match=message):
        load(prepared, split)


def test_wrong_features(prepared):
    with pytest.raises(ValueError, match=r"'img'; did you mean 'image'\?"):
        load(prepared, image_key="img")
    with pytest.raises(ValueError, match=r"'label' of tiny_images is int64"):
        load(prepared, image_key="label")
    with pytest.raises(ValueError, match=r"labels must be one integer an example"):
        load(prepared, label_key="vector")
    with pytest.raises(ValueError, match=r"are for uint8 images"):
        load(prepared, image_key="vector", image_size=4)


def test_an_unfinished_preparation_is_one_sentence(own_copy):
    folder, version = own_copy
    version.rename(version.parent / "incomplete.ABC123_1.0.0")
    with pytest.raises(ValueError, match=r"no finished data set, only incomplete.ABC123_1.0.0"):
        load(folder)


def test_a_version_without_its_description_is_unfinished(own_copy):
    folder, version = own_copy
    (version / "dataset_info.json").unlink()
    with pytest.raises(ValueError, match=r"no finished data set, only 1.0.0: .* broken off"):
        load(folder)


def shard(version, split="train"):
    (file,) = pathlib.Path(version).glob(f"*-{split}.array_record-*")
    return file


def test_a_missing_file_is_named(own_copy):
    folder, version = own_copy
    file = shard(version)
    file.unlink()
    with pytest.raises(ValueError, match=f"{file} is missing"):
        load(folder)
    assert len(load(folder, "test")) == N_TEST


@pytest.mark.parametrize("kept", [0.0, 0.5, 0.99])
def test_a_file_cut_short_is_named(own_copy, kept):
    folder, version = own_copy
    file = shard(version)
    whole = file.read_bytes()
    file.write_bytes(whole[: int(kept * len(whole))])
    with pytest.raises(ValueError, match=f"{file} is damaged"):
        load(folder)


def test_files_of_another_format_are_refused(own_copy):
    folder, version = own_copy
    info = json.loads((version / "dataset_info.json").read_text())
    info["fileFormat"] = "tfrecord"
    (version / "dataset_info.json").write_text(json.dumps(info))
    with pytest.raises(ValueError, match=r"is prepared as tfrecord: only array_record"):
        load(folder)


def test_configs_are_listed(own_copy):
    folder, version = own_copy
    (folder / "tiny_images/grey").mkdir()
    version.rename(folder / "tiny_images/grey/1.0.0")
    with pytest.raises(ValueError, match=r"has configs: say which, e.g. 'tiny_images/grey'"):
        load(folder)
    assert len(load(folder, dataset="tiny_images/grey")) == N_TRAIN


def whole(folder, **kwargs):
    """Labels, examples and levels of the training split."""
    source = load(folder, label_key="label", **kwargs)
    return source.labels, source.fetch(np.arange(len(source))), source.levels


@pytest.mark.parametrize("kind", ["array_record", "json"])
def test_a_flipped_bit_is_told_or_does_not_matter(prepared, own_copy, kind):
    """Anywhere in the files: the data are right, or one sentence names what is damaged."""
    folder, version = own_copy
    right = {key: whole(prepared, image_key=key) for key in ("image", "vector")}
    files = sorted(f for f in version.iterdir() if kind in f.name and "-test" not in f.name)
    rng, told = np.random.default_rng(0), 0
    for i in range(40):
        file = files[i % len(files)]
        content = file.read_bytes()
        harmed = np.frombuffer(content, np.uint8).copy()
        # Of the zeros that array_record fills its files up with, a few will do.
        places = np.flatnonzero(harmed) if i % 4 else np.arange(len(harmed))
        harmed[rng.choice(places)] ^= 1 << rng.integers(8)
        file.write_bytes(harmed.tobytes())
        key = ("image", "vector")[i % 2]
        try:
            found = whole(folder, image_key=key)
        except ValueError as error:
            text, told = str(error), told + 1
            assert "\n" not in text and text.endswith(".")
            # A name that has changed is still a name.
            assert str(folder) in text or text.startswith("Unknown "), text
        else:
            for a, b in zip(found, right[key]):
                np.testing.assert_array_equal(a, b)
        file.write_bytes(content)
    assert told > 20


def test_a_damaged_record_is_named(own_copy):
    """With its file and its number in the split, also where the split is made of parts."""
    folder, version = own_copy
    file = shard(version, "test")
    content = bytearray(file.read_bytes())
    place = content.index(b"image 53")
    content[place] ^= 1
    file.write_bytes(content)
    source = load(folder, "train[4:7]+test")
    bad = []
    for i in range(8):
        try:
            source.fetch(np.array([0, i]))
        except ValueError as error:
            bad.append(i)
            assert f"{file} is damaged: example {i} of the split 'train[4:7]+test'" in str(error)
    assert len(bad) == 1 and bad[0] >= 3
    with pytest.raises(ValueError, match=f"{file} is damaged: example {bad[0] - 3} of the split"):
        load(folder, "test", label_key="label")


def test_another_shape_than_is_described(own_copy):
    folder, version = own_copy
    text = (version / "features.json").read_text()
    assert text.count('"6"') == 1
    (version / "features.json").write_text(text.replace('"6"', '"7"'))
    with pytest.raises(ValueError, match=r"is damaged.* shape"):
        whole(folder)
