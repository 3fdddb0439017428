"""Accuracy by noise level in a case with a closed form: two equally likely Gaussian classes."""

import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pytest
from known_data import LEVELS, PARAMS, SHAPE, config
from scipy.stats import norm

from builders.experiment import build
from data import from_array
from evaluation.report.rows import figure_rows
from evaluation.tasks.classifier import make_by_level
from evaluation.tasks.evaluate import evaluate

SCALE, GAP, STD, N = 2.0 / LEVELS, 6.0, 4.0, 3000


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    """The exact classifier of two classes that differ in the mean of all pixels."""
    rng = np.random.default_rng(0)
    label = rng.integers(0, 2, N)
    raw = np.floor(rng.normal(30.0 + GAP * label[:, None], STD, (N, 6))).clip(0, LEVELS - 1)
    raw = raw.astype(np.uint8).reshape(N, *SHAPE)
    file = tmp_path_factory.mktemp("data") / "two.npz"
    np.savez(file, x=raw[:50], y=label[:50], x_test=raw, y_test=label, levels=LEVELS)
    section = config(file, eval__batch_size=700)
    section.model.num_classes = 2
    section.data.uniform_dequantization = True
    built = build(section)

    def logits(params):
        def run(x, t):
            a, c = built.path.coeffs(t)
            middle = SCALE * (30.0 + 0.5 * GAP) - 1.0
            slope = a * SCALE * GAP / (a**2 * (SCALE * STD) ** 2 + c**2)
            total = slope * jnp.sum((x - a * middle).reshape(len(x), -1), axis=1)
            return jnp.stack([-0.5 * total, 0.5 * total], axis=1)

        return run

    test = from_array("two", "test", raw, label, LEVELS)
    return dataclasses.replace(built, logits=logits, test=test)


def test_accuracy_is_that_of_the_best_rule(experiment):
    found = make_by_level(experiment, experiment.test, seed=0)(PARAMS)
    assert [level.sigma for level in found] == [0.01, 0.1, 0.3, 1.0, 3.0, 10.0]
    for level in found:
        spread = np.hypot(SCALE * STD, level.sigma)
        expected = norm.cdf(6**0.5 * 0.5 * SCALE * GAP / spread)
        assert abs(level.accuracy - expected) < 4 * max(level.stderr, 0.5 / N)
        # The mean of -log p of the right class is a quadrature over the log-odds.
        d = 6**0.5 * SCALE * GAP / spread
        z, w = np.polynomial.hermite_e.hermegauss(100)
        nats = np.logaddexp(0.0, -(0.5 * d**2 + d * z)) @ w / w.sum()
        assert level.cross_entropy == pytest.approx(nats, abs=0.02)


def test_batches_do_not_matter(experiment):
    small = dataclasses.replace(experiment, config=experiment.config.copy_and_resolve_references())
    small.config.eval.batch_size = 301
    one, other = (make_by_level(e, e.test, 0)(PARAMS) for e in (experiment, small))
    for a, b in zip(one, other):
        assert a.accuracy == b.accuracy
        assert a.cross_entropy == pytest.approx(b.cross_entropy, rel=1e-5)


def test_report(experiment, tmp_path):
    report = evaluate(experiment, PARAMS, tmp_path, 6, [], 1.0)
    stored = json.loads((tmp_path / "report_6.json").read_text())
    assert stored["classifier"] == report["classifier"] and len(stored["classifier"]) == 6
    told = {row.name: row.value for row in figure_rows(report)}
    assert told["Accuracy on test at noise level 0.3"] == report["classifier"][2]["accuracy"]
    assert (tmp_path / "report.html").exists() and not (tmp_path / "samples.npz").exists()
