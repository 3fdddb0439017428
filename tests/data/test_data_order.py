"""The order of examples: a pure function whose every epoch has each example exactly once."""

import itertools

import numpy as np
import pytest

from data.order import batch_indices, host_slice, padded_batches, permutation


def line(seed, n, batch_size, size):
    """The first n indices of the endless sequence, joined from batches."""
    steps = range(-(-n // batch_size))
    return np.concatenate([batch_indices(seed, s, batch_size, size) for s in steps])[:n]


@pytest.mark.parametrize("size, batch_size", [(10, 3), (7, 7), (5, 12), (297, 64), (1, 4)])
def test_every_epoch_holds_every_example_once(size, batch_size):
    epochs = line(3, 5 * size, batch_size, size).reshape(5, size)
    np.testing.assert_array_equal(np.sort(epochs, axis=1), np.tile(np.arange(size), (5, 1)))


def test_epochs_and_seeds_differ():
    first, second = line(0, 200, 25, 100).reshape(2, 100)
    assert not np.array_equal(first, second)
    assert not np.array_equal(first, line(1, 100, 25, 100))


def test_order_does_not_depend_on_where_it_is_entered():
    forward = [batch_indices(5, step, 8, 30) for step in range(20)]
    for step in reversed(range(20)):
        permutation.cache_clear()
        np.testing.assert_array_equal(batch_indices(5, step, 8, 30), forward[step])


def test_order_does_not_depend_on_the_batch_size():
    np.testing.assert_array_equal(line(2, 90, 4, 13), line(2, 90, 9, 13))


@pytest.mark.parametrize("processes", [1, 2, 4, 8])
def test_host_slices_join_to_the_global_batch(processes):
    batch = batch_indices(0, 3, 16, 50)
    parts = [host_slice(batch, p, processes) for p in range(processes)]
    assert {len(part) for part in parts} == {16 // processes}
    np.testing.assert_array_equal(np.concatenate(parts), batch)


def test_all_permutations_are_equally_likely():
    counts = dict.fromkeys(itertools.permutations(range(4)), 0)
    draws = 4800
    for seed, epoch in itertools.product(range(60), range(draws // 60)):
        counts[tuple(permutation(seed, epoch, 4).tolist())] += 1
    expected = draws / 24
    chi2 = sum((n - expected) ** 2 / expected for n in counts.values())
    # chi^2 with 23 degrees of freedom has mean 23 and standard deviation sqrt(46).
    assert abs(chi2 - 23) < 4 * 46**0.5


def philox4x64(counter, key):
    """Philox4x64-10 of Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011."""
    mask = 2**64 - 1
    c, k = list(counter), list(key)
    for _ in range(10):
        a, b = 0xD2E7470EE14C6C93 * c[0], 0xCA5A826395121157 * c[2]
        c = [(b >> 64) ^ c[1] ^ k[0], b & mask, (a >> 64) ^ c[3] ^ k[1], a & mask]
        k = [(k[0] + 0x9E3779B97F4A7C15) & mask, (k[1] + 0xBB67AE8584CAA73B) & mask]
    return c


def test_order_follows_from_the_published_generator():
    # The order is then the same on every machine and with every NumPy version, and old runs resume.
    seed, epoch, size = 42, 7, 50
    blocks = [philox4x64((1 + i, 0, 0, 0), (seed, epoch)) for i in range(-(-size // 4))]
    words = [word for block in blocks for word in block][:size]
    expected = sorted(range(size), key=words.__getitem__)
    assert permutation(seed, epoch, size).tolist() == expected


@pytest.mark.parametrize("size, batch_size", [(10, 3), (8, 4), (3, 8), (1, 1)])
def test_padded_batches_count_every_example_once(size, batch_size):
    batches = list(padded_batches(size, batch_size))
    assert all(i.shape == m.shape == (batch_size,) for i, m in batches)
    assert np.concatenate([i[m] for i, m in batches]).tolist() == list(range(size))
    assert all(m.all() for _, m in batches[:-1])
    assert all((i >= 0).all() and (i < size).all() for i, _ in batches)


def test_a_permutation_handed_out_cannot_be_changed():
    with pytest.raises(ValueError, match="read-only"):
        permutation(0, 0, 5)[0] = 1


def test_errors_name_the_numbers():
    with pytest.raises(ValueError, match=r"10 examples .* 4 processes"):
        host_slice(np.arange(10), 0, 4)
    with pytest.raises(ValueError, match="process_index=4 with process_count=4"):
        host_slice(np.arange(8), 4, 4)
    with pytest.raises(ValueError, match="step=-1"):
        batch_indices(0, -1, 4, 10)
    with pytest.raises(ValueError, match="seed=-1"):
        batch_indices(-1, 0, 4, 10)
    with pytest.raises(ValueError, match="batch_size=0"):
        next(padded_batches(10, 0))
