"""Restorations of Gaussian images with the exact score are draws of a known posterior."""

import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pytest
from closed_form import Gaussian
from known_data import LEVELS, PARAMS, config
from PIL import Image

from builders.experiment import build
from builders.operators import build_operator
from builders.restoration import build_restoration
from configs.base import base
from data import Scaler
from evaluation.tasks.restoration import (
    Restored,
    likeness,
    mean_and_std,
    restore,
    run_restoration,
    scores,
)
from operators import dense, named_mask

SHAPE, D, N = (4, 4, 1), 16, 12
# Neighbouring pixels are correlated, so measured averages are informative about single pixels.
PLACE = np.stack(np.meshgrid(np.arange(4), np.arange(4)), -1).reshape(D, 2)
COV = 0.25**2 * np.exp(-np.linalg.norm(PLACE[:, None] - PLACE[None], axis=2) / 2.0)
DATA = Gaussian(np.full(D, -0.1), COV + 1e-4 * np.eye(D))
HEUN = {"sampling__predictor": "heun", "sampling__steps": 40, "sampling__eps": 0.001}
QUICK = {"sampling__predictor": "ddim", "sampling__steps": 20, "sampling__eps": 0.001}
LANGEVIN = {
    "sampling__predictor": "reverse_diffusion", "sampling__corrector": "langevin",
    "sampling__steps": 300, "sampling__snr": 0.16, "sampling__n_steps_each": 4,
}  # fmt: skip


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    rng = np.random.default_rng(0)
    x = DATA.draw(rng, 100 + N)
    raw = np.floor((x + 1.0) / 2.0 * LEVELS).clip(0, LEVELS - 1).astype(np.uint8)
    raw = raw.reshape(-1, *SHAPE)
    path = tmp_path_factory.mktemp("data") / "smooth.npz"
    np.savez(path, x=raw[:100], x_test=raw[100:], levels=LEVELS)
    return path


def experiment(file, law="vp", **changes):
    options = {"data__uniform_dequantization": True, "sampling__batch_size": 500}
    options |= {"guidance__samples": 40, "guidance__operator": "downsample", **changes}
    built = build(config(file, law, **options))
    return dataclasses.replace(built, predict=lambda params: DATA.predict(built.path))


def posterior(operator, noise):
    """Return the posterior's mean as a function of y, and its covariance."""
    A = dense(operator)
    gain = DATA.cov @ A.T @ np.linalg.inv(A @ DATA.cov @ A.T + noise**2 * np.eye(len(A)))
    mean = lambda y: DATA.mean + (y.reshape(len(y), -1) - A @ DATA.mean) @ gain.T
    return mean, DATA.cov - gain @ A @ DATA.cov


CASES = {
    "mmps": {"guidance__noise_std": 0.1, "guidance__iterations": 4, **HEUN},
    "mmps, adaptive": {
        "guidance__noise_std": 0.1, "guidance__iterations": 4, "sampling__method": "ode",
        "sampling__rtol": 1e-3, "sampling__atol": 1e-3, "sampling__eps": 0.001,
        "guidance__samples": 12,
    },
    "ensemble": {
        "guidance__noise_std": 0.1, "guidance__ensemble__particles": 1000, "sampling__steps": 60,
        "sampling__eps": 0.001,
    },
    "impute": {"guidance__operator": "mask", "guidance__mask__keep": "left", **LANGEVIN},
    "repaint": {
        "guidance__operator": "mask", "guidance__mask__keep": "left", "guidance__jump": 2,
        "sampling__predictor": "ancestral", "sampling__steps": 150,
    },
}  # fmt: skip


LONG = ("ensemble", "impute", "repaint")  # methods whose run takes longer than their compilation
MARKED = [pytest.param(k, marks=pytest.mark.optimised if k in LONG else ()) for k in CASES]


@pytest.mark.parametrize("case", MARKED)
def test_draws_of_the_posterior(images, case):
    known = experiment(images, guidance__method=case.split(",")[0], **CASES[case])
    restoration = build_restoration(known)
    found = restore(known, restoration, PARAMS, range(N))
    assert not found.failed.any()
    mean, cov = posterior(restoration.operator, known.config.guidance.noise_std)
    expected, std = mean(found.y), np.sqrt(np.clip(np.diag(cov), 0, None))
    open_ = std > 1e-3
    k = known.config.guidance.samples
    x = found.x.reshape(N, k, D)
    gap = (x.mean(axis=1) - expected)[:, open_] / (std[open_] / k**0.5)
    # The gaps in standard errors have size 1 and mean 0. The bounds allow a small error of the few
    # steps.
    assert np.sqrt(np.mean(gap**2)) < 1.25
    assert abs(gap.mean()) < 4.5 / N**0.5
    spread = x.std(axis=1, ddof=1)[:, open_].mean(axis=0) / std[open_]
    np.testing.assert_allclose(spread.mean(), 1.0, atol=0.06)


@pytest.mark.parametrize("method", ["mmps", "ensemble"])
def test_an_example_is_restored_the_same_alone(images, method):
    """Draws of several examples share batches of 4; an example's do not depend on the others."""
    changes = {
        "sampling__batch_size": 4,
        "guidance__samples": 6,
        "guidance__ensemble__particles": 100,
    }
    known = experiment(images, guidance__method=method, **CASES[method] | QUICK | changes)
    few = build_restoration(known)
    together = restore(known, few, PARAMS, range(6))
    alone = restore(known, few, PARAMS, range(4, 5))
    np.testing.assert_array_equal(alone.y[0], together.y[4])
    np.testing.assert_allclose(alone.x[0], together.x[4], atol=5e-5)


# The scores in a report.


def drawn(known, operator, k, noise, spread=1.0, seed=0):
    """Return exact draws of the posterior, or of one that is `spread` times as wide."""
    rng = np.random.default_rng(seed)
    truth = DATA.draw(rng, 400)
    A = dense(operator)
    y = truth @ A.T + noise * rng.standard_normal((400, len(A)))
    mean, cov = posterior(operator, noise)
    z = spread * rng.multivariate_normal(np.zeros(D), cov, (400, k))
    x = (mean(y)[:, None] + z).reshape(400, k, *SHAPE)
    f32 = lambda v, shape: np.float32(v.reshape(400, *shape))
    return Restored(
        f32(truth, SHAPE), f32(y, operator.shape_out), np.float32(x), 1.0, np.zeros((400, k), bool)
    )


def test_calibration_of_exact_draws(images):
    known = experiment(images, guidance__method="mmps", guidance__noise_std=0.1)
    operator = build_restoration(known).operator
    exact, narrow = (
        scores(known, operator, drawn(known, operator, 9, 0.1, s), 0.1) for s in (1, 0.5)
    )
    assert exact["expected_coverage"] == 0.8
    assert exact["coverage"] == pytest.approx(0.8, abs=0.02)
    assert exact["spread"] == pytest.approx(1.0, abs=0.03)
    assert narrow["coverage"] < 0.6 and narrow["spread"] > 1.5
    # The misfit of a draw has two parts: the measurement noise and the draw's own spread.
    A = dense(operator)
    own = np.trace(A @ posterior(operator, 0.1)[1] @ A.T) / len(A)
    rest = A @ DATA.cov @ A.T
    kept = 0.1**2 * np.linalg.inv(rest + 0.1**2 * np.eye(len(A)))
    expected = np.sqrt(own + np.trace(kept @ (rest + 0.1**2 * np.eye(len(A))) @ kept.T) / len(A))
    assert exact["misfit"] == pytest.approx(expected / 0.1, rel=0.02)


def test_psnr(images):
    """The PSNR of a known error, in units of [0, 1]."""
    known = experiment(images, guidance__method="mmps", guidance__noise_std=0.1)
    operator = build_restoration(known).operator
    found = drawn(known, operator, 2, 0.1)
    level = 2.0 / LEVELS
    truth = np.float32(level * (np.round((found.truth + 1) / level).clip(4, 59) + 0.5) - 1)
    shifted = found._replace(truth=truth, x=np.repeat(truth[:, None], 2, axis=1) + 2 * level)
    result = scores(known, operator, shifted, 0.1)
    samples = -20 * np.log10(2.0 / (LEVELS - 1))
    assert result["psnr_of_samples"] == pytest.approx(samples, abs=0.01)
    assert 0.0 < result["ssim"] < 1.0
    perfect = scores(known, operator, shifted._replace(x=shifted.x - 2 * level), 0.1)
    assert perfect["psnr"] > result["psnr"] + 10 and perfect["psnr_of_samples"] is None


@pytest.mark.parametrize("side", [1, 2, 3, 5, 7, 8])
def test_likeness_of_small_pictures(side):
    """The SSIM of a perfect restoration is 1. It is None for a side below 3."""
    truth = np.random.default_rng(0).uniform(-1, 1, (2, side, side + 3, 1)).astype(np.float32)
    failed = np.zeros((2, 1), bool)
    found = Restored(truth, None, truth[:, None], None, failed)
    made = SimpleNamespace(scaler=Scaler(64, True, True), shape=truth.shape[1:])
    result = likeness(made, found, truth)
    assert result["ssim"] == (pytest.approx(1.0, abs=0.02) if side >= 3 else None)


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_likeness_of_other_channels(channels):
    """Scored as grey and colour images are: an error of a hundredth of the range is 40 dB."""
    levels = np.random.default_rng(0).integers(3, 60, (2, 8, 8, channels))
    truth = np.float32(levels / 63 * 2 - 1)
    made = SimpleNamespace(scaler=Scaler(64, True, False), shape=truth.shape[1:])
    x = truth + np.float32(0.02)  # of a range of 2
    found = Restored(truth, x, x[:, None], None, np.zeros((2, 1), bool))
    result = scores(made, SimpleNamespace(forward=lambda x: x), found, 0.0)
    assert result["psnr"] == pytest.approx(40.0, abs=1e-3) and 0.99 < result["ssim"] <= 1.0
    flat = lambda v: v.reshape(*v.shape[: v.ndim - 3], -1)
    made.shape = flat(truth).shape[1:]
    rows = found._replace(truth=flat(truth), y=flat(x), x=flat(found.x))
    assert set(scores(made, SimpleNamespace(forward=lambda x: x), rows, 0.0)) == {"misfit"}


def test_failures_are_left_out(images):
    known = experiment(images, guidance__method="mmps", guidance__noise_std=0.1)
    operator = build_restoration(known).operator
    found = drawn(known, operator, 5, 0.1)
    failed = found.failed.copy()
    failed[3, 1:3] = failed[7] = True
    x = np.where(failed[..., None, None, None], np.nan, found.x)
    mean, std = mean_and_std(found._replace(x=x, failed=failed))
    np.testing.assert_allclose(mean[3], found.x[3, [0, 3, 4]].mean(axis=0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(std[3], found.x[3, [0, 3, 4]].std(axis=0, ddof=1), rtol=1e-4)
    assert np.isnan(mean[7]).all()
    result = scores(known, operator, found._replace(x=x, failed=failed), 0.1)
    assert np.isfinite(result["misfit"]) and "coverage" not in result


def test_files(images, tmp_path):
    changes = {"guidance__noise_std": 0.1, "guidance__samples": 3, **QUICK}
    known = experiment(images, guidance__method="pigdm", guidance__data_std=0.25, **changes)
    restoration = build_restoration(known)
    told = run_restoration(restoration, known, PARAMS, tmp_path, 8, range(2, 7))
    folder = tmp_path / "restored" / "step_8"
    report = json.loads((folder / "pigdm_downsample_2-6.json").read_text())
    assert told["psnr"] == report["psnr"] and report["guidance"]["noise_std"] == 0.1
    arrays = np.load(folder / "pigdm_downsample_2-6.npz")
    assert arrays["arr_0"].shape == (5, 3, *SHAPE) and arrays["arr_0"].dtype == np.uint8
    np.testing.assert_array_equal(arrays["indices"], range(2, 7))
    assert (folder / "pigdm_downsample_2-6.png").stat().st_size > 100


def test_measurements_of_a_file(images, tmp_path):
    """A measurement from a file gives the same draws as the measured example, without the truth."""
    changes = {"guidance__noise_std": 0.1, "guidance__samples": 3, **QUICK}
    known = experiment(images, guidance__method="mmps", **changes)
    restoration = build_restoration(known)
    found = restore(known, restoration, PARAMS, range(5))
    np.savez(tmp_path / "y.npz", y=found.y)
    given = {"guidance__measurement": str(tmp_path / "y.npz"), **changes}
    blind = experiment(images, guidance__method="mmps", **given)
    again = restore(blind, restoration, PARAMS, range(5))
    assert again.truth is None
    np.testing.assert_array_equal(again.x, found.x)
    told = run_restoration(restoration, blind, PARAMS, tmp_path, 8, range(1, 3))
    assert 0.5 < told["misfit"] < 2.0 and "psnr" not in told and "coverage" not in told
    assert "truth" not in np.load(tmp_path / "restored" / "step_8" / "mmps_downsample_1-2.npz")
    with pytest.raises(ValueError, match=r"--seeds ends at 5 and .* has examples 0 to 4"):
        restore(blind, restoration, PARAMS, range(3, 6))
    for y, sentence in (
        (found.y[:, :1], r"`y` of .* has shape .* it must be \('n', 2, 2, 1\)"),
        (np.full_like(found.y, np.nan), "not finite; give finite floats"),
    ):
        np.savez(tmp_path / "y.npz", y=y)
        with pytest.raises(ValueError, match=sentence):
            restore(blind, restoration, PARAMS, range(2))
    (tmp_path / "y.npz").write_text("no array")
    with pytest.raises(ValueError, match="not an npz file with an array `y`"):
        restore(blind, restoration, PARAMS, range(2))


def test_pictures_are_measured(images, tmp_path):
    """Pictures of a folder are measured at the levels of their pixels."""
    raw = np.load(images)["x_test"][:3]
    for name, picture in zip("cab", raw[[2, 0, 1]]):
        Image.fromarray(np.uint8(np.round(picture[..., 0] * (255 / (LEVELS - 1))))).save(
            tmp_path / f"{name}.png"
        )
    changes = {"guidance__noise_std": 0.1, "guidance__samples": 2, **QUICK}
    known = experiment(images, guidance__method="mmps", guidance__dataset=str(tmp_path), **changes)
    found = restore(known, build_restoration(known), PARAMS, range(3))
    np.testing.assert_allclose(found.truth, (raw + 0.5) / LEVELS * 2 - 1, atol=1.5 / 255)


# Refused options.


@pytest.mark.parametrize(
    "changes, sentence",
    [
        ({"guidance__operator": "mark"}, "guidance.operator 'mark'; did you mean 'mask'"),
        ({"guidance__factor": 3}, "downsample has the factor 3 for 4 x 4 pixels"),
        ({"guidance__operator": "greyscale"}, "3"),
        ({"guidance__operator": "complex_fourier"}, "has 1 channels, and a complex image is two"),
        ({"guidance__method": "dps"}, "noise_std is 0.0; .* above 0"),
        ({"guidance__method": "impute"}, "rows that are not orthonormal"),
        (
            {
                "guidance__method": "impute", "guidance__operator": "mask",
                "guidance__noise_std": 0.1,
            },
            "takes what is measured as exact; set it to 0",
        ),
        (
            {"guidance__method": "ddrm", "sampling__method": "ode"},
            "takes steps down a grid, and sampling.method is 'ode'",
        ),
        (
            {
                "guidance__method": "repaint", "guidance__operator": "mask", "guidance__jump": 7,
                "sampling__steps": 10,
            },
            "guidance.repaint.jump is 7; it must divide the number of steps, 10",
        ),
        (
            {"guidance__method": "ensemble", "guidance__particles": 10},
            "noise_std is 0.0; a misfit divides by it",
        ),
        (
            {
                "guidance__method": "ensemble", "guidance__particles": 10,
                "guidance__noise_std": 0.1,
            },
            "guidance.ensemble.particles is 10 and guidance.samples 40",
        ),
        (
            {"guidance__operator": "blur", "guidance__blur__std": -1.0},
            "guidance.blur.std is -1.0; it must be positive",
        ),
        ({"guidance__operator": "matrix"}, "guidance.matrix.A is '', which is no file"),
        ({"guidance__dataset": "tset"}, "tset is neither a split, 'train' or 'test', nor a pic"),
        (
            {
                "guidance__method": "impute", "guidance__operator": "mask",
                "guidance__mask__keep": "lft",
            },
            "guidance.mask.keep is 'lft', which is neither a file nor one of box, left",
        ),
    ],
)  # fmt: skip
def test_bad_options(images, changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        build_restoration(experiment(images, **{"guidance__method": "pigdm", **changes}))


def test_a_config_names_a_scan():
    """Three of eight lines of a complex image: 24 points, of two numbers each."""
    section = base("vp", "mlp", "digits").guidance
    section.update(operator="complex_fourier", complex_fourier={"lines": 3})
    assert build_operator(section, (8, 8, 2)).shape_out == (24, 1, 2)


def test_examples_that_are_not_there(images):
    known = experiment(images, guidance__method="pigdm", guidance__noise_std=0.1)
    with pytest.raises(ValueError, match=f"--seeds ends at {N} and test has examples 0 to {N - 1}"):
        restore(known, build_restoration(known), PARAMS, range(N + 1))


def test_masks(tmp_path):
    shape = (8, 6, 3)
    assert named_mask("left", shape)[:, :3].all() and not named_mask("left", shape)[:, 3:].any()
    assert named_mask("top", shape)[:4].all() and not named_mask("top", shape)[4:].any()
    assert named_mask("half", shape).sum() == 24
    box = named_mask("box", shape)
    assert not box[2:6, 1:5].any() and box.sum() == 48 - 16
    np.save(tmp_path / "m.npy", box)
    np.testing.assert_array_equal(named_mask(str(tmp_path / "m.npy"), shape), box)
    Image.fromarray(np.uint8(255 * box)).save(tmp_path / "m.png")
    np.testing.assert_array_equal(named_mask(str(tmp_path / "m.png"), shape), box)
    Image.fromarray(np.uint8(255 * box - 55 * box)).save(tmp_path / "grey.png")
    with pytest.raises(ValueError, match="has the grey value 200; a mask is black and white"):
        named_mask(str(tmp_path / "grey.png"), shape)
    with pytest.raises(ValueError, match=r"masks with a name are for images"):
        named_mask("left", (5,))
