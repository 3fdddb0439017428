"""The batch of each step, read directly or ahead of time."""

import gc
import itertools
import threading

import numpy as np
import pytest

from data.loader import Loader
from data.source import Source, from_array


def numbered(size=23):
    """A source whose examples and labels contain the number of the example."""
    array = np.arange(size, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 3, 1), np.uint8)
    return from_array("numbered", "train", array, np.arange(size) + 100, levels=256)


def hooked(hook, size=100):
    """A source that calls `hook(indices)` at every fetch."""

    def fetch(indices):
        hook(indices)
        return np.asarray(indices, np.float32)[:, None]

    return Source("hooked", "train", fetch, None, size, (1,), 0)


def loader_threads():
    return [t for t in threading.enumerate() if t.name.startswith("data-loader")]


def test_image_label_and_index_belong_together():
    batch = Loader(numbered(), batch_size=10, seed=0).batch(4)
    assert batch["x0"].shape == (10, 2, 3, 1) and batch["x0"].dtype == np.uint8
    np.testing.assert_array_equal(batch["x0"][:, 0, 0, 0], batch["index"])
    np.testing.assert_array_equal(batch["cond"], batch["index"] + 100)


def test_a_source_without_labels_gives_none():
    assert set(Loader(hooked(lambda i: None), 4, 0).batch(0)) == {"x0", "index"}


def test_an_epoch_of_batches_is_the_data():
    loader = Loader(numbered(20), batch_size=5, seed=1)
    seen = np.concatenate([loader.batch(step)["x0"][:, 0, 0, 0] for step in range(4)])
    assert sorted(seen.tolist()) == list(range(20))


@pytest.mark.parametrize("prefetch, workers", [(1, 1), (3, 1), (6, 4)])
@pytest.mark.parametrize("n_per_call", [1, 3])
def test_reading_ahead_gives_the_same_batches(n_per_call, prefetch, workers):
    loader = Loader(numbered(), batch_size=7, seed=2)
    items = loader.iterate(5, n_per_call, prefetch=prefetch, workers=workers)
    for k, item in enumerate(itertools.islice(items, 6)):
        direct = [loader.batch(5 + k * n_per_call + i) for i in range(n_per_call)]
        assert set(item) == {"x0", "index", "cond"}
        for name, array in item.items():
            expected = np.stack([b[name] for b in direct]) if n_per_call > 1 else direct[0][name]
            np.testing.assert_array_equal(array, expected)
            assert array.shape == expected.shape and array.dtype == expected.dtype


def test_processes_share_the_global_batch():
    whole = Loader(numbered(), 8, seed=3).batch(6)
    parts = [Loader(numbered(), 8, 3, process, 4).batch(6) for process in range(4)]
    for name in whole:
        np.testing.assert_array_equal(np.concatenate([p[name] for p in parts]), whole[name])


def test_the_next_batch_is_read_while_this_one_is_used_and_no_more_than_asked():
    read, second = [], threading.Event()

    def hook(indices):
        read.append(indices)
        if len(read) == 2:
            second.set()

    items = Loader(hooked(hook), 4, 0).iterate(prefetch=2)
    next(items)
    assert second.wait(timeout=10)
    items.close()
    assert len(read) <= 3


def test_an_error_is_raised_at_its_own_item_and_ends_the_threads():
    bad = Loader(hooked(lambda i: None), 4, 0).indices(3)

    def hook(indices):
        if np.array_equal(indices, bad):
            raise OSError("disk on fire")

    items = Loader(hooked(hook), 4, 0).iterate(prefetch=2)
    for _ in range(3):
        next(items)
    with pytest.raises(OSError, match="disk on fire"):
        next(items)
    assert not loader_threads()


@pytest.mark.parametrize("ending", ["close", "del"])
def test_threads_end_with_the_iterator(ending):
    items = Loader(numbered(), 4, 0).iterate(workers=2, prefetch=4)
    next(items)
    assert loader_threads()
    if ending == "close":
        items.close()
    else:
        del items
        gc.collect()
    assert not loader_threads()


def test_wrong_numbers_are_reported_before_the_first_batch():
    with pytest.raises(ValueError, match=r"6 examples .* 4 processes"):
        Loader(numbered(), 6, 0, process_index=0, process_count=4)
    with pytest.raises(ValueError, match="batch_size=0"):
        Loader(numbered(), 0, 0)
    with pytest.raises(ValueError, match="n_per_call=0"):
        Loader(numbered(), 4, 0).iterate(n_per_call=0)


def test_pairs_of_two_sources_are_independent():
    """Each epoch has each example of both sources once, in two independent orders."""
    loader = Loader(numbered(20), 5, seed=1, second=numbered(40))
    batches = [loader.batch(step) for step in range(800)]
    first, second = (np.stack([b[k][:, 0, 0, 0] for b in batches]) for k in ("x0", "x1"))
    np.testing.assert_array_equal(
        first, Loader(numbered(20), 5, seed=1).stacked(0, 800)["x0"][..., 0, 0, 0]
    )
    assert sorted(second[:8].ravel()) == list(range(40)) and sorted(first[:4].ravel()) == list(
        range(20)
    )
    # The correlation of 4000 independent pairs has the standard error 1 / sqrt(4000).
    assert abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < 4.0 / 4000**0.5
    again = Loader(numbered(20), 5, seed=1, second=numbered(40)).batch(7)
    np.testing.assert_array_equal(again["x1"], batches[7]["x1"])
    shares = [Loader(numbered(20), 5 * 2, 1, i, 2, numbered(40)).batch(3)["x1"] for i in range(2)]
    whole = Loader(numbered(20), 10, 1, second=numbered(40)).batch(3)["x1"]
    np.testing.assert_array_equal(np.concatenate(shares), whole)
