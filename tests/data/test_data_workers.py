"""Batches that several threads decode are those of one, and so is the error of a bad example."""

import os
import threading
import time

import numpy as np
import pytest
from PIL import Image

import data
from data import workers
from data.workers import number_of, shared_out


@pytest.fixture
def folder(tmp_path):
    """Forty noisy pictures, each of another size."""
    rng = np.random.default_rng(0)
    for i in range(40):
        shape = (20 + i, 50 - i, 3)
        pixels = rng.integers(0, 256, shape).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{i:02}.{('jpg', 'png')[i % 2]}")
    return tmp_path


def load(folder, threads):
    return data.load(
        "image_folder", "train", path=str(folder), image_size=8, holdout=0.0, workers=threads
    )


def test_batches_do_not_depend_on_the_number_of_workers(folder):
    """Four steps of 15 of 40 examples, the third of which spans two epochs."""
    one = data.Loader(load(folder, 1), 15, seed=3)
    alone = [one.batch(step) for step in range(4)]
    for threads in (0, 2, 4, 64):
        items = data.Loader(load(folder, threads), 15, seed=3).iterate()
        for wanted in alone:
            found = next(items)
            assert found.keys() == wanted.keys()
            for name in wanted:
                np.testing.assert_array_equal(found[name], wanted[name])
        items.close()


def test_examples_are_read_at_once_and_come_in_order():
    """Four threads meet in their first parts; one alone would wait for the others in vain."""
    meeting, first = threading.Barrier(4, timeout=10), threading.local()

    def fetch(indices):
        if not hasattr(first, "met"):
            first.met = meeting.wait()
        time.sleep(0.001 * (indices[0] % 3))
        return np.stack([indices, -indices], axis=1)

    indices = np.random.default_rng(0).permutation(100)
    found = shared_out(fetch, (2,), np.int64, 4)(indices)
    np.testing.assert_array_equal(found, np.stack([indices, -indices], axis=1))


def test_the_first_bad_example_is_named_and_no_thread_is_left():
    """The example in place 3 fails long after that in place 9."""
    read = []

    def fetch(indices):
        (i,) = indices
        read.append(i)
        if i in (103, 109):
            time.sleep(0.2 if i == 103 else 0.0)
            raise ValueError(f"{i}.png cannot be read")
        return np.zeros((1, 1))

    with pytest.raises(ValueError, match=r"103\.png"):
        shared_out(fetch, (1,), np.float32, 20)(np.arange(100, 120))
    assert 109 in read
    assert not [t for t in threading.enumerate() if t.name.startswith("decoder")]


def test_after_an_error_the_rest_of_a_batch_is_not_read():
    read = []

    def fetch(indices):
        read.extend(indices)
        time.sleep(0.01)
        if 0 in indices:
            raise ValueError("0.png cannot be read")
        return np.zeros((len(indices), 1))

    with pytest.raises(ValueError, match=r"0\.png"):
        shared_out(fetch, (1,), np.float32, 2)(np.arange(1600))
    assert len(read) < 800


def test_a_damaged_picture_is_named_by_a_worker(folder):
    file = folder / "07.png"
    file.write_bytes(file.read_bytes()[:200])
    source = load(folder, 4)
    with pytest.raises(ValueError, match=r"07\.png cannot be read as an image .*remove or replace"):
        source.fetch(np.arange(40))


def test_closing_a_loader_ends_its_threads(folder):
    items = data.Loader(load(folder, 4), 15, seed=0).iterate()
    next(items)
    items.close()
    names = [thread.name for thread in threading.enumerate()]
    assert not [name for name in names if name.startswith(("decoder", "data-loader"))]


def test_small_images_have_no_threads(tmp_path, monkeypatch):
    """Sixteen cores, and one thread for images of 64 x 64, of which more would be slower."""
    monkeypatch.setattr(workers, "cores", lambda: 16)
    pools, plain = [], workers.ThreadPoolExecutor
    monkeypatch.setattr(workers, "ThreadPoolExecutor", lambda *a, **k: pools.append(a) or plain(*a))
    for side, threads in ((64, []), (200, [(3,)])):
        Image.new("RGB", (side, side)).save(tmp_path / "a.png")
        source = load(tmp_path, -1)
        pools.clear()  # of the headers
        source.fetch(np.array([0, 0, 0]))
        assert pools == threads


def test_the_number_of_workers(monkeypatch):
    assert 1 <= workers.cores() <= os.cpu_count()
    assert [number_of(n) for n in (0, 1, 5, 99)] == [1, 1, 5, 99]
    for cores in (2, 64):
        monkeypatch.setattr(workers, "cores", lambda cores=cores: cores)
        assert number_of(-1) == min(cores, 16)
        # Of 64, 128, 256 and 512 pixels a side; a given number is taken as it is.
        found = [number_of(-1, side**2) for side in (64, 128, 256, 512)]
        assert found == [min(cores, n) for n in (1, 2, 5, 16)]
        assert number_of(3, 64**2) == 3
    with pytest.raises(ValueError, match="workers=-2: give the number of threads"):
        number_of(-2)
