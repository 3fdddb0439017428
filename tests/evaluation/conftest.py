"""Fixtures: data of a known law on disk, and the bits/dim of its exact model."""

import numpy as np
import pytest
from known_data import LEVELS, N_TEST, N_TRAIN, PARAMS, exact, levels

from evaluation.tasks.bits import data_bits


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    rng = np.random.default_rng(3)
    path = tmp_path_factory.mktemp("data") / "gauss.npz"
    arrays = {"x": levels(rng, N_TRAIN), "x_test": levels(rng, N_TEST), "levels": LEVELS}
    np.savez(path, **arrays)
    return path


@pytest.fixture(scope="module")
def bits(file):
    """The exact model and its bits/dim of the test data, computed in one batch."""
    experiment = exact(file)
    return experiment, data_bits(experiment, PARAMS, experiment.test)
