"""Codes of data with a known flow, and refused files of codes."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closed_form import Gaussian
from known_data import LEVELS, MEAN, N_TEST, PARAMS, SHAPE, STD, exact

from evaluation.report.images import to_levels
from evaluation.tasks.codes import (
    decode_codes,
    dequantised,
    encode_data,
    in_batches,
    read_codes,
)
from evaluation.tasks.latents import run_decode, run_encode, run_interpolate
from sde_lib import example_keys, fold_in, split

# Fixed steps, because an adaptive solve takes three times as long to compile.
TIGHT = {
    "likelihood__solver": "adams",
    "likelihood__variable": "lam",
    "likelihood__steps": 64,
    "sampling__batch_size": 32,
}
SCALE = 2.0 / LEVELS
DATA = Gaussian.scalar(MEAN * SCALE - 1.0, STD * SCALE, dims=6)


@pytest.fixture(scope="module")
def encoding(file, tmp_path_factory):
    """The experiment, the workdir and the report of an encoding of all test examples, in batches of
    32, 32 and 11."""
    workdir = tmp_path_factory.mktemp("run")
    experiment = exact(file, **TIGHT)
    report = run_encode(experiment, PARAMS, workdir, 4, range(N_TEST))
    return experiment, workdir, report


def codes_of(workdir):
    folder = workdir / "latents" / "step_4" / "test"
    return np.load(folder / "latents_0-74.npz"), json.loads(
        (folder / "latents_0-74.json").read_text()
    )


def test_codes_are_the_closed_flow_of_the_data_as_bits_per_dim_sees_them(encoding):
    """The codes use the noise of the first pass of `data_bits`, so its latents are these codes."""
    experiment, workdir, _ = encoding
    path, eps = experiment.path, experiment.config.likelihood.eps
    raw, numbers = experiment.test.fetch(np.arange(N_TEST)), np.arange(N_TEST)
    noise_keys, probes = split(fold_in(example_keys(0, numbers), 0), 2)
    x = experiment.bits_scaler.to_model(noise_keys, jnp.asarray(raw))
    stored, _ = codes_of(workdir)
    truth = DATA.flow_map(path, x, eps, path.t1) / path.prior_std()
    np.testing.assert_allclose(stored["z"], truth, atol=2e-3)
    likelihood = jax.jit(lambda x: experiment.log_likelihood(probes, experiment.predict(None), x))
    latent = likelihood(x).latent / path.prior_std()
    np.testing.assert_allclose(stored["z"], latent, atol=1e-3)


def test_the_report_is_of_a_standard_normal(encoding):
    """The data have the model's law, so the 75 codes of 6 dimensions are draws of N(0, I)."""
    _, workdir, told = encoding
    stored, report = codes_of(workdir)
    n, z = N_TEST, stored["z"].reshape(N_TEST, -1)
    assert report["norm"] == pytest.approx(np.mean(np.linalg.norm(z, axis=1)) / 6**0.5, rel=1e-5)
    # E |z| / sqrt(6) = 0.959 for 6 normals, with a standard deviation of 0.28.
    assert abs(report["norm"] - 0.959) < 4 * 0.28 / n**0.5
    # The root mean square of the mean over 6 dimensions, each with the variance 1 / n.
    assert report["mean"]["rms_of_normal"] == pytest.approx(n**-0.5)
    assert 0.2 < report["mean"]["rms"] / report["mean"]["rms_of_normal"] < 2.0
    assert abs(report["variance"]["mean"] - 1.0) < 4 * (2.0 / (6 * n)) ** 0.5
    assert report["round_trip"]["rms"] < 1e-3
    levels = report["round_trip"]["rms_levels"]
    assert levels == pytest.approx(report["round_trip"]["rms"] / SCALE)
    assert report["data"]["n"] == n and report["failed"] == {"encode": 0, "decode": 0}
    assert {key: told[key] for key in report} == report


def test_the_training_split_has_codes_of_its_own(file, tmp_path):
    """The codes of the training split have a folder of their own. A single code has no variance."""
    experiment = exact(file, latents__dataset="train", **TIGHT)
    report = run_encode(experiment, PARAMS, tmp_path, 4, range(118, 119))
    folder = tmp_path / "latents" / "step_4" / "train"
    assert report["folder"] == str(folder) and report["data"]["split"] == "train"
    raw = experiment.train.fetch(np.array([118]))
    back = decode_codes(experiment, PARAMS, np.load(folder / "latents_118-118.npz")["z"]).x
    np.testing.assert_array_equal(to_levels(experiment.bits_scaler, back)[0], raw)
    report = json.loads((folder / "latents_118-118.json").read_text())
    assert report["variance"] == {"mean": None, "std": None, "std_of_normal": None}
    with pytest.raises(ValueError, match=r"example 120, and the train split of .* has 120"):
        run_encode(experiment, PARAMS, tmp_path, 4, range(118, 121))


def test_decoding_at_a_temperature(encoding, file):
    """For Gaussian data a temperature multiplies the distance from the mean in every direction."""
    _, workdir, _ = encoding
    experiment = exact(file, latents__temperature=0.5, **TIGHT)
    told = run_decode(experiment, PARAMS, workdir, 4, range(3))
    found = np.load(workdir / "latents" / "step_4" / "decoded_0-74_tau_0.5.npz")
    raw = experiment.test.fetch(np.arange(N_TEST)).astype(float)
    assert told["samples"] == N_TEST and found["indices"].tolist() == list(range(N_TEST))
    # Both sets of levels are rounded down.
    expected = MEAN + 0.5 * (raw + 0.5 - MEAN)
    assert np.abs(found["arr_0"] + 0.5 - expected).max() < 0.85


def test_walks_meet_in_the_blend(encoding, file):
    """With linear blending, codes of Gaussian data decode to linear blends of the data."""
    _, workdir, _ = encoding
    experiment = exact(file, latents__blend="linear", latents__nodes=3, **TIGHT)
    run_interpolate(experiment, PARAMS, workdir, 4, range(4, 9))
    found = np.load(workdir / "latents" / "step_4" / "walk_linear_4-8.npz")
    raw = experiment.test.fetch(np.arange(4, 9)).astype(float)
    assert found["pairs"].tolist() == [[4, 5], [5, 6], [6, 7], [7, 8]]
    ends = np.stack([raw[:-1], raw[1:]], axis=1)
    np.testing.assert_array_equal(found["arr_0"][:, [0, 2]], ends)
    middle = found["arr_0"][:, 1] + 0.5 - (ends + 0.5).mean(axis=1)
    assert np.abs(middle).max() < 1.05


def test_what_fails_is_left_out(encoding, file, monkeypatch):
    """A code that is not finite is not decoded, and the other codes are decoded as usual."""
    experiment, workdir, _ = encoding
    z = codes_of(workdir)[0]["z"][:5].copy()
    z[1, 0, 0, 0] = np.nan
    solved = []

    def noted(experiment, batch, params, array):
        solved.append(array)
        return in_batches(experiment, batch, params, array)

    monkeypatch.setattr("evaluation.tasks.codes.in_batches", noted)
    result = decode_codes(experiment, PARAMS, z)
    np.testing.assert_array_equal(solved[0], z[[0, 2, 3, 4]])
    assert result.failed.tolist() == [False, True, False, False, False]
    assert np.isnan(result.x[1]).all() and np.isfinite(result.x[[0, 2, 3, 4]]).all()
    levels, unit = to_levels(experiment.bits_scaler, result.x)
    np.testing.assert_array_equal(
        levels[[0, 2, 3, 4]], experiment.test.fetch(np.array([0, 2, 3, 4]))
    )
    assert np.isnan(unit[1]).all()
    hopeless = exact(file, likelihood__solver="tsit5", likelihood__max_steps=2)
    with pytest.raises(ValueError, match="None of 3 solves"):
        encode_data(hopeless, PARAMS, 0.1 * z[2:5])


def test_another_seed_is_another_dequantisation(encoding):
    """Another seed gives other noise to the same levels. The noise of an example does not depend on
    the other examples."""
    experiment, _, _ = encoding
    raw, numbers = experiment.test.fetch(np.arange(60)), np.arange(60)
    first, again = (dequantised(experiment, raw, numbers, seed) for seed in (None, 7))
    # The difference of two uniforms of a level's width has the standard deviation sqrt(1/6) levels.
    assert np.std(first - again) == pytest.approx(SCALE / 6**0.5, rel=0.1)
    for x in (first, again):
        np.testing.assert_array_equal(to_levels(experiment.bits_scaler, x)[0], raw)
    np.testing.assert_array_equal(dequantised(experiment, raw[5:6], numbers[5:6]), first[5:6])


Z = np.zeros((2, *SHAPE), np.float32)


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"codes": Z}, "no array `z`"),
        ({"z": Z[..., 0]}, r"of shape \(2, 3, 2\)"),
        ({"z": Z[:0]}, "n at least 1"),
        ({"z": Z.astype(int)}, "int64"),
        ({"z": Z + np.nan}, "not finite"),
        ({"z": Z, "indices": np.arange(3)}, r"`indices` of shape \(3,\)"),
    ],
)
def test_files_that_hold_no_codes(tmp_path, arrays, words):
    np.savez(tmp_path / "codes.npz", **arrays)
    with pytest.raises(ValueError, match=words):
        read_codes(tmp_path / "codes.npz", SHAPE)


def test_files_that_are_no_files_of_codes(tmp_path):
    with pytest.raises(ValueError, match="no file"):
        read_codes(tmp_path / "codes.npz", SHAPE)
    for content in (b"", b"no zip", b"PK\x03\x04 cut short"):
        (tmp_path / "codes.npz").write_bytes(content)
        with pytest.raises(ValueError, match="not an npz file"):
            read_codes(tmp_path / "codes.npz", SHAPE)
    np.save(tmp_path / "codes.npy", Z)
    with pytest.raises(ValueError, match="not an npz file"):
        read_codes(tmp_path / "codes.npy", SHAPE)
