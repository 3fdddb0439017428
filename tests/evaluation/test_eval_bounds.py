"""Further bounds of bits/dim against closed forms for the exact model of Gaussian levels.

The law factors over pixels, so the expectation over the noise at eps is a quadrature in 1D.
"""

import itertools

import numpy as np
import pytest
from known_data import LEVELS, MEAN, PARAMS, STD, exact
from scipy.stats import norm

from evaluation.report.rows import figure_rows
from evaluation.report.sections import bits_section
from evaluation.tasks.bits import data_bits
from evaluation.tasks.bounds import MORE_BOUNDS, noise_in_levels
from evaluation.tasks.prepared import Prepared

EPS = 0.02  # the noise here is two levels or more, so that a missing term would be seen
SCALE = 2.0 / LEVELS
Z, WEIGHT = np.polynomial.hermite_e.hermegauss(200)
WEIGHT = WEIGHT / WEIGHT.sum()


def experiment(file, **changes):
    fine = {"likelihood__eps": EPS}
    return exact(file, **{**fine, "eval__bpd_repeats": 4, **changes})


def per_level(known, bound):
    """The expected contribution, in bits, of one pixel of each level."""
    a, c = (float(v) for v in known.path.coeffs(EPS))
    mean, std = a * (MEAN * SCALE - 1.0), np.hypot(a * STD * SCALE, c)
    u = np.arange(LEVELS)
    if bound.endswith("levels"):
        y = np.asarray(known.scaler.affine(u + 0.5))
        x = a * y[:, None] + c * Z
        comb = np.logaddexp.reduce(norm.logpdf(x[..., None], a * y, c), axis=-1)
        return -(norm.logpdf(x, mean, std) - comb) @ WEIGHT / np.log(2.0)
    # The mean square about the model's mean has the parts of the bin's middle, the bin, the noise.
    square = (a * ((u + 0.5) * SCALE - 1.0) - mean) ** 2 + a**2 * SCALE**2 / 12 + c**2
    logp = -0.5 * (square / std**2 + np.log(2 * np.pi * std**2)) + np.log(a * SCALE)
    return -logp / np.log(2.0)


# Every bound is tested under one of two laws.
LAWS = dict(zip(MORE_BOUNDS, itertools.cycle(["vp", "ve", "ve", "vp"])))


@pytest.mark.parametrize(("bound", "law"), LAWS.items())
def test_expected_value(file, law, bound):
    known = experiment(file, law=law, data__uniform_dequantization=True)
    bits = data_bits(known, PARAMS, known.test, bound=bound)
    raw = known.test.fetch(np.arange(known.test.size)).reshape(known.test.size, -1)
    gap = bits.per_example - per_level(known, bound)[raw].mean(axis=1)
    assert bits.failed == 0
    error = gap.std(ddof=1) / len(gap) ** 0.5
    assert abs(gap.mean()) < 3.5 * error
    # The error is not correlated with the level. Levels at another place in their bins would make
    # a correlation.
    lean = raw.mean(axis=1) - raw.mean()
    assert abs(gap @ lean) < 3.5 * error * len(gap) * lean.std()


def test_they_are_told_beside_the_flow(file, tmp_path):
    """Each bound has its own table in the report. Its passes are stored, so a second call computes
    nothing."""
    known = experiment(file, eval__bounds=("elbo", "closed"), eval__bpd_repeats=2)
    raw, nfe = known.test.fetch(np.arange(known.test.size)), {}
    expected = per_level(known, "closed")[raw].mean()
    section = bits_section(Prepared(known), PARAMS, tmp_path, 8, nfe)
    assert list(section["bounds"]) == ["elbo", "closed"]
    for name, found in section["bounds"].items():
        table = np.genfromtxt(tmp_path / found["table"], delimiter=",", names=True)
        assert found["table"] == f"bits_8_test_{name}.csv"
        assert found["mean"] == pytest.approx(table["bits_per_dim"].mean(), rel=1e-6)
        assert abs(found["mean"] - expected) < 3 * found["stderr"]
    assert section["bounds"]["elbo"]["nfe"] == known.config.eval.elbo_times
    assert nfe["likelihood"] != known.config.eval.elbo_times
    fresh = sorted((path, path.stat().st_mtime_ns) for path in tmp_path.rglob("pass_*"))
    again = bits_section(Prepared(known), PARAMS, tmp_path, 8, {})
    assert again["bounds"] == section["bounds"] and again["mean"] == section["mean"]
    assert sorted((path, path.stat().st_mtime_ns) for path in tmp_path.rglob("pass_*")) == fresh
    rows = figure_rows({"bits_per_dim": section, "nfe": nfe, "seconds": {}})
    told = {row.name: row.value for row in rows}
    assert told["Bits per dimension, test, ELBO"] == section["bounds"]["elbo"]["mean"]


@pytest.mark.parametrize("law", ["vp", "ve"])
def test_noise_at_eps_is_in_levels(file, law):
    known = experiment(file, law=law)
    a, c = (float(v) for v in known.path.coeffs(EPS))
    assert noise_in_levels(known) == pytest.approx(c / a / SCALE, rel=1e-5)


def test_an_unknown_bound(file):
    with pytest.raises(ValueError, match=r"eval.bounds.*'elbow'.*closed_levels"):
        experiment(file, eval__bounds=("elbow",))
    with pytest.raises(ValueError, match=r"eval\.elbo_times is 5; it must be even"):
        experiment(file, eval__elbo_times=5)
