"""The digits agree with scikit-learn's copy."""

import collections

import numpy as np
import pytest
from sklearn.datasets import load_digits

import data


def counted(images, labels):
    pairs = zip(np.asarray(images, np.uint8), labels)
    return collections.Counter((image.tobytes(), int(label)) for image, label in pairs)


def everything(split):
    source = data.load("digits", split)
    return source.fetch(np.arange(len(source))), source.labels


def test_sizes_and_levels():
    train, test = data.load("digits", "train"), data.load("digits", "test")
    assert (len(train), len(test)) == (1500, 297)
    assert train.shape == test.shape == (8, 8, 1)
    assert train.levels == test.levels == 17
    images, _ = everything("train")
    assert images.dtype == np.uint8 and (images.min(), images.max()) == (0, 16)


def test_splits_are_disjoint_and_together_all_1797_with_their_labels():
    digits = load_digits()
    together = counted(*everything("train")) + counted(*everything("test"))
    assert together == counted(digits.images, digits.target)
    assert sum(together.values()) == 1797


def test_splits_are_the_same_at_every_load():
    first = data.load("digits", "train").fingerprint
    data.digits._images_and_labels.cache_clear()
    assert data.load("digits", "train").fingerprint == first


def test_splits_are_drawn_alike():
    """The count of each digit in the test split is within 4 standard deviations of its mean."""
    _, train = everything("train")
    _, test = everything("test")
    share = np.bincount(train, minlength=10) / 1500
    expected = 297 * share
    assert (np.abs(np.bincount(test, minlength=10) - expected) < 4 * np.sqrt(expected)).all()


def test_an_unknown_split_is_refused():
    with pytest.raises(ValueError, match="split of digits 'valid'"):
        data.load("digits", "valid")
