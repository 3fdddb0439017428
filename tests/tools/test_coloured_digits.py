"""Coloured digits: the largest channel is the grey value, and each image has one hue."""

import numpy as np
from matplotlib.colors import rgb_to_hsv

from data import load
from tools.coloured_digits import coloured, main


def test_one_hue_a_digit():
    image, labels, hue = coloured("test")
    source = load("digits", "test")
    grey = source.fetch(np.arange(source.size))
    np.testing.assert_array_equal(labels, source.labels)
    # The colours have full brightness, so the largest channel is the grey level.
    np.testing.assert_array_equal(image.max(axis=-1, keepdims=True), grey)
    bright = grey[..., 0] >= 12
    found = rgb_to_hsv(image / 16.0)[..., 0]
    turn = np.abs(found - hue[:, None, None])[bright]
    assert np.minimum(turn, 1 - turn).max() < 0.02  # rounding to one of 16 levels
    assert np.histogram(hue, 4, (0, 1))[0].min() > 50


def test_the_file_is_a_data_set(tmp_path):
    main([str(tmp_path / "new" / "c.npz")])
    train, test = (
        load("npz", split, path=str(tmp_path / "new" / "c.npz")) for split in ("train", "test")
    )
    assert (train.shape, train.levels, train.size, test.size) == ((8, 8, 3), 17, 1500, 297)
    np.testing.assert_array_equal(test.fetch(np.arange(5)), coloured("test")[0][:5])
    assert not np.array_equal(coloured("train")[2][:297], coloured("test")[2])
