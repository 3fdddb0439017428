"""The classifier of the digits' noise: trained by the command's function, read again, refused."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import tiny

from models.noise_level import FILE, load
from samplers.mcmc.levels import make_levels, mixture_logits
from sde_lib import VP
from tools.train_noise_level import Plan, heldout, levels_of, train_classifier
from training.checkpoint import CheckpointError

PLAN = Plan(levels=16, steps=60, batch=64, sigma_min=0.1)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The workdir, and what the training returned."""
    workdir = tmp_path_factory.mktemp("run")
    return workdir, *train_classifier(tiny("vp"), workdir, PLAN)


def test_it_learns_and_is_written(trained):
    workdir, classifier, found = trained
    # The size of y alone, of 64 numbers, tells a large sigma among levels 0.48 apart in log sigma.
    assert found.uniform == pytest.approx(np.log(16.0))
    assert found.cross_entropy < 0.75 * found.uniform and found.log_sigma_error < 1.2
    read = load(workdir / FILE, (8, 8, 1))
    np.testing.assert_allclose(
        [read.sigma_min, read.sigma_max], [0.1, np.exp(-VP().lam(1.0))], rtol=1e-5
    )
    y = 10.0 * np.random.default_rng(0).standard_normal((3, 8, 8, 1)).astype(np.float32)
    np.testing.assert_array_equal(read.logits(y), classifier.logits(y))
    levels = make_levels(VP(), 16, read.sigma_min, read.sigma_max)
    # Pure noise of sigma 10: within two levels of it.
    guess = levels.sigma[np.argmax(read.logits(y), axis=1)]
    assert np.all(np.abs(np.log(guess / 10.0)) < 1.0), guess


def test_a_finished_run_is_not_trained_again_and_another_is_refused(trained):
    workdir, classifier, found = trained
    again, measured = train_classifier(tiny("vp"), workdir, PLAN)
    for a, b in zip(jax.tree.leaves(classifier.params), jax.tree.leaves(again.params)):
        np.testing.assert_array_equal(a, b)
    assert measured == found
    with pytest.raises(CheckpointError, match="head"):
        train_classifier(tiny("vp"), workdir, PLAN._replace(levels=9))


def test_the_measure_is_that_of_the_exact_posterior():
    """The exact logits of one point: the error of log sigma is that of 64 numbers' size, about
    1 / sqrt(128), and the grid's own rounding."""

    class Source:
        fetch = staticmethod(lambda i: np.zeros((len(i), 64), np.float32))
        __len__ = lambda self: 1000

    levels = make_levels(VP(), 400, 0.05, 100.0)
    exact = SimpleNamespace(logits=mixture_logits(levels, jnp.zeros((1, 64))))
    found = heldout(exact, levels, Source(), lambda key, batch: batch)
    spacing = np.log(2000.0) / 399
    truth = (1.0 / 128 * (1.0 + 1.0 / 64) + spacing**2 / 12) ** 0.5
    # 4000 draws
    assert abs(found.log_sigma_error / truth - 1.0) < 4.0 / (2 * 4000) ** 0.5


def test_refusals(tmp_path):
    for change, message in (
        ({"network": "nlp"}, "nlp"),
        ({"steps": 0}, "steps is 0"),
        ({"learning_rate": float("nan")}, "learning_rate is nan"),
        ({"levels": 1}, "levels is 1"),
        ({"sigma_max": 1e6}, "1000000.0; take them rising and within"),
    ):
        with pytest.raises(ValueError, match=message):
            train_classifier(tiny("vp"), tmp_path, PLAN._replace(**change))
    # By default down to where sampling ends.
    levels = levels_of(VP(), 1e-3, Plan())
    np.testing.assert_allclose(levels.sigma[-1], np.exp(-VP().lam(1e-3)), rtol=1e-5)
    assert not (tmp_path / "noise_level").exists()
