"""The classifier of a config's data, stored in a file that `--mode eval` reads."""

import numpy as np
import pytest
from tiny import tiny

from configs.base import base
from data import load
from evaluation.report.images import of_source
from evaluation.spaces.feature_classifier import load_feature_classifier
from tools.train_feature_classifier import train


def test_the_one_that_comes_along(tmp_path):
    """A newly trained classifier agrees with the stored one on over 96 % of the test digits. They
    are not compared bit for bit, because the last bits depend on the machine."""
    said = train(tiny("vp"), tmp_path / "c.npz")
    assert "accuracy on 297 test images 0.9" in said
    made, known = (
        load_feature_classifier(str(tmp_path / "c.npz")),
        load_feature_classifier("digits"),
    )
    assert made.id in said
    test = of_source(load("digits", "test")).first(297)
    assert np.mean(made.classify(test) == known.classify(test)) > 0.96


def test_data_without_labels(tmp_path):
    np.savez(tmp_path / "x.npz", x=np.zeros((40, 4, 4, 1), np.uint8))
    config = base("vp", "mlp", "npz")
    config.data.path = str(tmp_path / "x.npz")
    with pytest.raises(ValueError, match="has no labels, which a classifier needs"):
        train(config, tmp_path / "c.npz")
    assert not (tmp_path / "c.npz").exists()
