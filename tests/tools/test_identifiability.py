"""`tools.identifiability` on models with known codes, and its command line."""

import dataclasses
import json
import re

import jax
import numpy as np
import pytest
from closed_form import Gaussian
from known_data import PARAMS, config
from tiny import tiny

from builders.experiment import build
from tools import identifiability
from tools.identifiability import compare, config_of, correlations

LEVELS, SHAPE, D, STD = 64, (6, 5, 1), 30, 1.5
COUNT = 40
# In units of the model, in which a level is 2 / 64 wide.
MEAN = 31.0 * 2.0 / LEVELS - 1.0
SPREAD = STD * 2.0 / LEVELS


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("data") / "x.npz"
    draw = lambda n: np.floor(rng.normal(31.0, STD, (n, *SHAPE))).clip(0, 63).astype(np.uint8)
    np.savez(path, x=draw(3000), x_test=draw(60), levels=LEVELS)
    return path


def of(file, data, law="vp", **changes):
    """Return an experiment whose network is the exact network of `data`."""
    fast = {"likelihood__solver": "adams", "likelihood__variable": "lam", **changes}
    experiment = build(config(file, law, **fast))
    return dataclasses.replace(experiment, predict=lambda params: data.predict(experiment.path))


@pytest.fixture(scope="module")
def one(file):
    return of(file, Gaussian.scalar(MEAN, SPREAD, D))


def test_one_model_agrees_with_itself_and_images_do_not(one):
    found = compare(one, PARAMS, one, PARAMS, COUNT)
    assert found["images"] == COUNT and found["failed"] == 0
    assert found["same"]["mean"] == pytest.approx(1.0, abs=1e-12)
    assert found["by_dimension"]["mean"] == pytest.approx(1.0, abs=1e-12)
    assert found["rms_difference"] == 0.0
    chance = found["different"]
    assert abs(chance["mean"]) < 4 * chance["stderr"]
    # The correlation of two independent normals in D dimensions has the variance 1 / (D - 1).
    assert chance["stderr"] == pytest.approx(((D - 1) * COUNT) ** -0.5, rel=0.4)
    assert found["rms_difference_different"] == pytest.approx(2**0.5, rel=0.1)
    # The data are Gaussian, and 3000 examples give their moments precisely.
    assert found["gaussian"]["mean"] > 0.99
    # The redrawn noise of one level has variance 1 / 12; the data have a spread of 1.5 levels,
    # which includes the effect of rounding down.
    expected = 1.0 - 1.0 / 12.0 / STD**2
    assert abs(found["redrawn"]["mean"] - expected) < 4 * found["redrawn"]["stderr"] + 5e-3


def test_another_model_agrees_as_far_as_its_flow(one, file):
    """The other model has 3 times the spread in every second dimension, so a third of the code."""
    spread = np.where(np.arange(D) % 2, 3.0 * SPREAD, SPREAD)
    wrong = Gaussian(np.full(D, MEAN), np.diag(spread**2))
    found = compare(one, PARAMS, of(file, wrong), PARAMS, COUNT)
    # The correlation of u and k u, with u normal and k = 1 or 1/3, is E k / sqrt(E k^2).
    expected = (2.0 / 3.0) / (5.0 / 9.0) ** 0.5
    assert abs(found["same"]["mean"] - expected) < 4 * found["same"]["stderr"] + 5e-3
    assert found["rms_difference"] == pytest.approx((2.0 / 9.0) ** 0.5, rel=0.1)
    # A factor does not change the correlation within one dimension.
    assert found["by_dimension"]["mean"] > 0.999


def test_correlations_are_those_of_numpy():
    rng = np.random.default_rng(1)
    a, b = rng.standard_normal((2, 5, 7)) + 3.0
    expected = [np.corrcoef(x, y)[0, 1] for x, y in zip(a, b)]
    np.testing.assert_allclose(correlations(a, b), expected)


def test_what_cannot_be_compared(one, file):
    data = Gaussian.scalar(MEAN, SPREAD, D)
    for other, count, words in (
        (one, 1, "between 2 and 60"),
        (one, 61, "between 2 and 60"),
        (of(file, data, sde__beta_max=10.0), 5, "only under one law"),
        (of(file, data, law="ve", data__centered=True), 5, "only under one law"),
        (of(file, data, data__centered=False), 5, "scaled alike"),
        (build(tiny()), 5, "same data"),
    ):
        with pytest.raises(ValueError, match=words):
            compare(one, PARAMS, other, PARAMS, count)


def run_of(folder, **changes):
    """Write a workdir as training leaves it, but without checkpoints."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(tiny(**changes).to_dict()))
    return folder


@pytest.fixture
def digits(tmp_path):
    path = tmp_path / "config.py"
    fast = 'likelihood__solver="adams", likelihood__variable="lam", likelihood__steps=12'
    path.write_text(f"from tiny import tiny\n\n\ndef get_config():\n    return tiny({fast})\n")
    return path


def test_the_command(tmp_path, digits, monkeypatch, capsys):
    """The tool takes the network's width of each run from the run's `config.json`."""
    widths = []

    def restore(experiment, workdir):
        widths.append(experiment.model.width)
        return 6, jax.jit(experiment.init_params)(jax.random.key(0))

    monkeypatch.setattr(identifiability, "restore_ema", restore)
    a, b = run_of(tmp_path / "a"), run_of(tmp_path / "b", model__width=48, seed=7)
    flags = [f"--config={digits}", f"--workdir={a}", f"--other_workdir={b}", "--count=5"]
    identifiability.main(flags)
    found = json.loads((a / "identifiability.json").read_text())
    assert widths == [32, 48] and found["images"] == 5
    said = capsys.readouterr().out
    for name in ("same", "different", "gaussian", "redrawn"):
        assert re.search(rf"^{name} +{found[name]['mean']:.4f} ± ", said, re.MULTILINE)
    assert found["runs"] == [[str(digits), str(a)], [str(digits), str(b)]]


def test_refusals(tmp_path, digits):
    a, b = run_of(tmp_path / "a"), run_of(tmp_path / "b", law="ve")
    flags = [f"--config={digits}", f"--workdir={a}"]
    with pytest.raises(SystemExit, match="no checkpoint in"):
        identifiability.main([*flags, f"--other_workdir={a}"])
    with pytest.raises(ValueError, match=r"sde\.sigma_max is 50\.0 there"):
        config_of(digits, b)
