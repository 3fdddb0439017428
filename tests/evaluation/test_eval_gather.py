"""Streamed moments equal the moments of all features, and only the needed features are held."""

import numpy as np
import pytest

from evaluation.metrics.compare import distances
from evaluation.report import images
from evaluation.report.images import Images, of_array, of_levels, shown
from evaluation.spaces.features import pixels
from evaluation.store.gather import FEATURES, MOMENTS, cuts, equal_edges, even_edges, gather

# One size needs several batches per block and is no multiple of ten; the other is below ten.
SIZES = (63, 7)


@pytest.fixture
def few(monkeypatch):
    """Make batches of two images of six values."""
    monkeypatch.setattr(images, "VALUES", 12)


@pytest.mark.parametrize("n", SIZES)
def test_moments_without_all_features(few, n):
    """The moments of the set and of both kinds of blocks agree with NumPy."""
    x, largest = np.random.default_rng(0).random((n, 3, 2, 1)), []

    def fetch(first, last):
        largest.append(last - first)
        return x[first:last]

    found = gather(pixels(), Images(n, fetch, x.shape[1:]), {MOMENTS})
    assert found.features is None and max(largest) <= 2 and sum(largest) == n
    whole = gather(pixels(), of_array(x), {MOMENTS}, in_blocks=False)
    assert len(whole.pieces) == 1
    rows, k = x.reshape(n, -1), min(10, n)
    blocks = [rows, rows, *np.array_split(rows, k), *np.split(rows[: n // k * k], k)]
    edges = even_edges(n), equal_edges(n)
    told = [found.moments(), whole.moments(), *(b for edge in edges for b in found.blocks(edge))]
    assert len(told) == len(blocks) == 2 + 2 * k
    for moments, block in zip(told, blocks):
        centred = block - block.mean(axis=0)
        assert moments.n == len(block)
        np.testing.assert_allclose(moments.mean, block.mean(axis=0), rtol=1e-12)
        np.testing.assert_allclose(moments.scatter, centred.T @ centred, atol=1e-12)


def test_cuts():
    assert cuts(40) == list(range(0, 41, 4)) == even_edges(40) == equal_edges(40)
    assert cuts(23) == [0, 2, 3, 4, 6, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 23]


def test_streamed_metrics_are_those_of_all_features(few):
    """The values do not change if another metric needs all features."""
    rng = np.random.default_rng(1)
    sets = {"samples": of_array(rng.random((63, 3, 2, 1)))}
    real = of_array(rng.random((45, 3, 2, 1)) ** 1.3)
    streamed = distances(pixels(), sets, real, ("frechet", "fid_infinity"))
    kept = distances(pixels(), sets, real, ("frechet", "fid_infinity", "kid"))
    for name, values in streamed.items():
        assert values == pytest.approx(kept[name], rel=1e-9), name


def test_features_are_joined_in_order(few):
    x = np.random.default_rng(2).random((9, 3, 2, 1))
    found = gather(pixels(), of_array(x), {FEATURES})
    np.testing.assert_array_equal(found.features.values, x.reshape(9, -1))


@pytest.mark.parametrize("side, batch, picture", [(32, 1000, 100), (256, 170, 64), (1024, 10, 4)])
def test_large_images_come_in_small_batches(side, batch, picture):
    levels = np.zeros((1, 1, 1, 1), np.uint8)
    found = of_levels(np.broadcast_to(levels, (2000, side, side, 3)), 256)
    assert found.size == batch and shown(100, found.shape) == picture
    assert found.count() == -(-2000 // batch)
