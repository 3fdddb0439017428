"""Data of a known law on disk, the bits/dim of its exact model, and programs compiled once."""

import jax
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache
from known_data import LEVELS, N_TEST, N_TRAIN, PARAMS, exact, levels

from evaluation.bits import data_bits


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    rng = np.random.default_rng(3)
    path = tmp_path_factory.mktemp("data") / "gauss.npz"
    arrays = {"x": levels(rng, N_TRAIN), "x_test": levels(rng, N_TEST), "levels": LEVELS}
    np.savez(path, **arrays)
    return path


@pytest.fixture(scope="module")
def bits(file):
    """Of the exact model, in one batch."""
    experiment = exact(file, likelihood__rtol=1e-5, likelihood__atol=1e-5)
    return experiment, data_bits(experiment, PARAMS, experiment.test)


@pytest.fixture(scope="module")
def compiled_once(tmp_path_factory):
    """Every call of `draw` compiles its program anew; here, as in `main.py`, it finds it stored."""
    settings = {
        "jax_compilation_cache_dir": str(tmp_path_factory.mktemp("programs")),
        "jax_persistent_cache_min_compile_time_secs": 0.1,
    }
    before = {name: getattr(jax.config, name) for name in settings}
    for name, value in settings.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()
