"""The modes encode, decode and interpolate, one after the other in one workdir."""

import json
import shutil

import numpy as np
import pytest
from program import inside
from tiny import flags

from data import load

STEP = "step_6"
# An adaptive solve takes three times as long to compile.
FIXED = {
    "likelihood__solver": "adams",
    "likelihood__variable": "lam",
    "likelihood__steps": 48,
}


@pytest.fixture(scope="module")
def call(digits, tmp_path_factory):
    """Return `call(mode, *more, **changes)`, which calls the program in `call.workdir`."""
    workdir = shutil.copytree(digits, tmp_path_factory.mktemp("latents") / "run")

    def call(mode, *more, **changes):
        given = flags(**{**FIXED, **changes})
        config = "configs/digits_vp.py"
        return inside("--config", config, "--workdir", workdir, "--mode", mode, *given, *more)

    call.workdir = workdir
    return call


@pytest.fixture(scope="module")
def trained(call):
    text = line(call("decode"))
    assert "There are no codes of checkpoint 6" in text and "--mode encode" in text
    return call.workdir / "latents" / STEP


@pytest.fixture(scope="module")
def encoded(call, trained):
    result = call("encode", "--seeds", "5-15")
    assert (result.status, result.err) == (0, "")
    return trained / "test"


def line(result):
    """Return the one error line of a failed call."""
    assert result.status != 0 and len(result.err.splitlines()) == 1, result
    return result.err


def raw_and_labels(numbers):
    source = load("digits", "test")
    return source.fetch(np.asarray(numbers)), source.labels[np.asarray(numbers)]


def is_png(path):
    return path.read_bytes().startswith(b"\x89PNG")


def test_encode(encoded):
    codes = np.load(encoded / "latents_5-15.npz")
    numbers = list(range(5, 16))
    assert codes["z"].shape == (11, 8, 8, 1) and codes["z"].dtype == np.float32
    assert codes["indices"].tolist() == numbers
    np.testing.assert_array_equal(codes["labels"], raw_and_labels(numbers)[1])
    np.testing.assert_allclose(codes["mean"], codes["z"].mean(0), atol=1e-6)
    np.testing.assert_allclose(codes["variance"], codes["z"].var(0, ddof=1), rtol=1e-4)
    assert (str(codes["split"]), int(codes["step"])) == ("test", 6)
    report = json.loads((encoded / "latents_5-15.json").read_text())
    # 11 examples fill a batch of 8 and a part of the next one.
    assert report["data"] == {"split": "test", "n": 11}
    assert report["failed"] == {"encode": 0, "decode": 0}
    assert report["nfe"] == {"encode": 49.0, "decode": 49.0}
    trip = report["round_trip"]
    assert 0.0 < trip["rms"] < 3e-3 and trip["rms_levels"] == pytest.approx(8.5 * trip["rms"])
    assert trip["worst"] >= trip["rms"]
    norm = np.linalg.norm(codes["z"].reshape(11, -1), axis=1).mean() / 8.0
    assert report["norm"] == pytest.approx(norm, rel=1e-5)
    assert report["variance"]["std_of_normal"] == pytest.approx(0.2**0.5)
    assert is_png(encoded / "latents_5-15.png")


def test_a_code_does_not_depend_on_its_batch(call, encoded):
    """A code depends neither on the batch nor on the place in it. Example 13 is the first of one
    batch and the fourth of another."""
    assert call("encode", "--seeds", "10-17").status == 0
    some, many = (np.load(encoded / f"latents_{name}.npz")["z"] for name in ("10-17", "5-15"))
    np.testing.assert_allclose(some[:6], many[5:], atol=1e-5)
    (encoded / "latents_10-17.npz").unlink()


def test_decode_gives_the_examples_back(call, trained, encoded):
    """Without `latents.file` the newest codes are decoded; a named file is decoded, too, here with
    codes of half the size at temperature 2."""
    result = call("decode")
    assert (result.status, result.err) == (0, "")
    back = np.load(trained / "decoded_5-15_tau_1.npz")
    numbers = list(range(5, 16))
    assert back["indices"].tolist() == numbers and back["temperature"] == 1.0
    # In 1e-3 of the pixels the round trip's error can cross to the next gray level.
    same = back["arr_0"] == raw_and_labels(numbers)[0]
    assert back["arr_0"].dtype == np.uint8 and same.mean() > 0.99
    assert is_png(trained / "decoded_5-15_tau_1.png")
    np.savez(trained.parent / "half.npz", z=0.5 * np.load(encoded / "latents_5-15.npz")["z"])
    given = {"latents__file": trained.parent / "half.npz", "latents__temperature": 2.0}
    assert call("decode", **given).status == 0
    again = np.load(trained / "decoded_half_tau_2.npz")
    np.testing.assert_array_equal(again["arr_0"], back["arr_0"])
    assert "indices" not in again


def test_interpolate(call, trained):
    result = call("interpolate", "--seeds", "5-7", latents__nodes=4)
    assert (result.status, result.err) == (0, "")
    walks = np.load(trained / "walk_slerp_5-7.npz")
    assert walks["arr_0"].shape == (2, 4, 8, 8, 1) and not walks["failed"].any()
    assert walks["pairs"].tolist() == [[5, 6], [6, 7]]
    np.testing.assert_allclose(walks["weights"], [0, 1 / 3, 2 / 3, 1])
    raw = raw_and_labels([5, 6, 7])[0]
    ends = walks["arr_0"][:, [0, -1]]
    assert (ends == raw[[[0, 1], [1, 2]]]).mean() > 0.99
    between = walks["arr_0"][:, 1:-1]
    assert (between != raw[:2, None]).mean() > 0.2 and (between != raw[1:, None]).mean() > 0.2
    assert is_png(trained / "walk_slerp_5-7.png")


def test_refusals(call, encoded, tmp_path):
    text = line(call("encode", "--seeds", "290-300"))
    assert "example 300" in text and "has 297" in text and "0 to 296" in text
    assert "the one example 3" in line(call("interpolate", "--seeds", "3"))
    text = line(call("interpolate", latents__blend="slrep"))
    assert "latents.blend 'slrep'" in text and "'slerp'" in text
    assert "latents.nodes is 1" in line(call("interpolate", latents__nodes=1))
    assert "latents.temperature is 0.0" in line(call("decode", latents__temperature=0.0))
    assert "'test'" in line(call("encode", latents__dataset="tset"))
    missing = tmp_path / "codes.npz"
    assert "is no file" in line(call("decode", latents__file=missing))
