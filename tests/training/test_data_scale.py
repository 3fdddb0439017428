"""Data whose scale does not go with the law are told of before training, with the right numbers."""

import math

import numpy as np
import pytest
from tiny import tiny

import sde_lib
from builders.experiment import build
from configs.base import base
from data.source import from_array
from sde_lib.product import make_product
from training import data_scale, run
from training.data_scale import scale_of, scale_warning

# exp(-int beta / 2) of VP with beta from 0.1 to 20.
LEFT = math.exp(-0.25 * 19.9 - 0.5 * 0.1)


def normal(mean, std, shape=(5,), n=400):
    """Values whose mean and deviation are exact, in another order."""
    half = np.random.default_rng(0).permutation(np.repeat([-1.0, 1.0], n // 2))
    x = (mean + std * half).reshape(n, *(1,) * len(shape)) * np.ones(shape)
    return from_array("made", "train", x.astype(np.float32), None, 0)


def said(path, source, eps=1e-3):
    return scale_warning(path, scale_of(source), eps)


def numbers(text, *pattern):
    """Those that stand behind each of the words, one word after the other."""
    words = text.replace(",", "").split()
    found = []
    for word in pattern:
        at = words.index(word)
        found.append(float(words[at + 1]))
        words = words[at + 1 :]
    return found


def test_the_numbers_of_a_sample(monkeypatch):
    source = normal(3.0, 2.0, n=256)
    scale = scale_of(source)
    np.testing.assert_allclose([scale.mean, scale.std], [[3.0] * 5, [2.0] * 5], rtol=1e-6)
    assert scale.n == 256
    monkeypatch.setattr(data_scale, "VALUES", 20)
    assert scale_of(source).n == 4


@pytest.mark.parametrize("mean, std", [(1000.0, 40.0), (0.0, 40.0), (30.0, 1.0)])
def test_what_is_left_at_the_end_of_vp(mean, std):
    text = said(sde_lib.VP(), normal(mean, std, n=256))
    kept = [LEFT * mean, LEFT * std]
    assert "\n" not in text and "raise sde.beta_max = 20" in text
    assert numbers(text, "mean", "deviation") == pytest.approx([mean, std], rel=6e-3, abs=1e-6)
    assert numbers(text, "which", "and") == pytest.approx(kept, rel=6e-3, abs=1e-6)
    assert "a prior of mean 0 and standard deviation 1," in text


@pytest.mark.parametrize(
    "path, key",
    [
        (sde_lib.VP(), "sde.beta_max"),
        (sde_lib.SubVP(), "sde.beta_max"),
        (sde_lib.VE(), "sde.sigma_max"),
        (sde_lib.EDM(), "sde.t1"),
        (sde_lib.Flow(), "sde.t1"),
        (sde_lib.Kinetic(), "sde.t1"),
        (sde_lib.MeanReverting(), "sde.end"),
    ],
    ids=lambda v: type(v).__name__ if not isinstance(v, str) else "",
)
def test_every_law(path, key):
    """Data at a tenth of the prior are the border; at a thousandth of the noise they drown."""
    prior = float(path.prior_std())
    border = 0.1 * prior / float(path.coeffs(np.float32(path.t1)).a)
    eps = max(path.t0, 1e-3)
    a, c = map(float, path.coeffs(np.float32(eps)))
    assert key in said(path, normal(0.0, 1.05 * border), eps)
    assert key in said(path, normal(1.05 * border, 0.0), eps)
    assert said(path, normal(0.0, 0.95 * border), eps) is None
    assert "drown" in said(path, normal(0.0, 1.9 * c / a), eps)
    assert said(path, normal(0.0, 2.1 * c / a), eps) is None


def test_small_data():
    """At t = 1e-3 the noise of VP has the variance 1 - exp(-(0.1 t + 19.9 t^2 / 2))."""
    noise = math.sqrt(math.expm1(0.1e-3 + 9.95e-6))
    text = said(sde_lib.VP(), normal(0.3, 1e-3))
    assert "deviation 0.001" in text and f"has {noise:.3g}" in text and "sampling.eps" in text


def test_one_value_of_many():
    x = np.random.default_rng(0).normal(0, 1, (300, 20)).astype(np.float32)
    assert said(sde_lib.VP(), from_array("made", "train", x, None, 0)) is None
    x[:, 7] += 1000
    text = said(sde_lib.VP(), from_array("made", "train", x, None, 0))
    assert "the value 7 of 20 has mean 1000 and standard deviation 0.98" in text


def test_parts_of_a_state():
    laws = {"a": sde_lib.VE(sigma_max=5000.0), "b": sde_lib.VP()}
    path = make_product(laws, {"a": (2,), "b": (3,)})
    x = np.random.default_rng(0).normal(0, 1, (300, 5)).astype(np.float32)
    x[:, :2] *= 100
    assert said(path, from_array("made", "train", x, None, 0)) is None
    x[:, 3] *= 100
    assert "the value 3 of 5" in said(path, from_array("made", "train", x, None, 0))


@pytest.mark.parametrize("law", ["vp", "subvp", "ve", "edm", "flow"])
def test_what_a_law_handles(law):
    path = sde_lib.SDES[law]()
    for low, high in ((-1, 1), (0, 1)):
        x = np.random.default_rng(0).uniform(low, high, (300, 8, 8, 3)).astype(np.float32)
        assert said(path, from_array("made", "train", x, None, 0)) is None
    assert said(sde_lib.VE(sigma_max=20_000.0), normal(1000.0, 40.0)) is None


def test_a_run_tells_it_before_anything_is_compiled(tmp_path, monkeypatch, capsys):
    """Once; and nothing of images in levels, whose scale is ours."""

    def begun(*_):
        raise InterruptedError

    monkeypatch.setattr(run, "initial_or_latest", begun)
    x = np.random.default_rng(0).normal(1000, 40, (100, 5))
    np.savez(tmp_path / "x.npz", x=x)
    config = tiny("vp")
    config.data = base("vp", "mlp", "npz").data
    config.data.path = str(tmp_path / "x.npz")
    for name, experiment, times in (("a", build(config), 1), ("b", build(tiny("vp")), 0)):
        with pytest.raises(InterruptedError):
            run.run_training(experiment, tmp_path / name)
        assert capsys.readouterr().out.count("Warning: over") == times
