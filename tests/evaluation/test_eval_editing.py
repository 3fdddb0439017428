"""Edits of Gaussian images with the exact score. The laws of the results are known."""

import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pytest
from closed_form import Gaussian
from known_data import LEVELS, PARAMS, config
from PIL import Image
from scipy.special import dawsn

from builders.editing import build_editing
from builders.experiment import build
from editing import Edit
from evaluation.tasks.editing import edit, run_editing
from evaluation.tasks.given import given_images
from samplers.base import SampleResult
from sde_lib import example_keys

SHAPE, D, N = (4, 4, 1), 16, 12
PLACE = np.stack(np.meshgrid(np.arange(4), np.arange(4)), -1).reshape(D, 2)
COV = 0.25**2 * np.exp(-np.linalg.norm(PLACE[:, None] - PLACE[None], axis=2) / 2.0)
DATA = Gaussian(np.full(D, -0.1), COV + 1e-4 * np.eye(D))
# The law of a class: lighter images with less contrast.
LIGHT = Gaussian(np.full(D, 0.3), 0.25 * DATA.cov)
LEFT = np.zeros(SHAPE[:2], int)
LEFT[:, :2] = 1


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    raw = np.floor((DATA.draw(np.random.default_rng(0), 40) + 1.0) / 2.0 * LEVELS)
    raw = raw.clip(0, LEVELS - 1).astype(np.uint8).reshape(-1, *SHAPE)
    path = tmp_path_factory.mktemp("data") / "smooth.npz"
    np.savez(path, x=raw[:20], x_test=raw[20:], levels=LEVELS)
    return path


def experiment(file, law="vp", classes=None, **changes):
    options = {
        "data__uniform_dequantization": True, "sampling__batch_size": 500,
        "sampling__predictor": "euler_maruyama", "sampling__corrector": "none",
        "sampling__steps": 60, "sampling__eps": 0.001, "sampling__grid": "uniform",
        "edit__method": "sdedit", "edit__samples": 60, **changes,
    }  # fmt: skip
    built = build(config(file, law, **options))
    predict = lambda params: DATA.predict(built.path)
    return dataclasses.replace(built, predict=predict, classes=classes)


def unconditional(predict):
    """Return a conditional prediction that ignores its label."""
    return lambda x, t, label: predict(x, t)


class Lighter:
    """A substitute for the guide to a class: every label gives the images of `LIGHT`."""

    own = None
    label = staticmethod(lambda indices: indices % 3)

    def __init__(self, path):
        self.predict = lambda params, own: unconditional(LIGHT.predict(path))


def edited(known):
    return edit(known, build_editing(known), PARAMS, range(N))


@pytest.mark.parametrize("law", ["vp", "ve"])
def test_the_law_of_edits_by_noise(images, law):
    """An edit by the reverse SDE is a draw of the data given the noised image. For Gaussian data
    its mean is `m + g a (x - m)` and its covariance is `C - a g C + c^2 g g^T`, with
    `g = a C (a^2 C + c^2)^-1`."""
    strength = {"vp": 0.4, "ve": 0.3}
    steps = {"sampling__predictor": "ancestral", "sampling__steps": 200}
    grid = {"sampling__grid": "uniform_lam"}
    given = {"edit__unit": "sigma", "edit__strength": strength[law], "edit__samples": 40}
    known = experiment(images, law, **steps, **grid, **given)
    found = edited(known)
    t = known.path.t_of_lam(-np.log(strength[law]))
    a, c = (float(v) for v in known.path.coeffs(t))
    gain = a * DATA.cov @ np.linalg.inv(a**2 * DATA.cov + c**2 * np.eye(D))
    cov = DATA.cov - a * gain @ DATA.cov + c**2 * gain @ gain.T
    image = found.image.reshape(N, D)
    expected = DATA.mean + (a * (image - DATA.mean)) @ gain.T
    x = found.x.reshape(N, -1, D)
    error = np.sqrt(np.diag(cov) / x.shape[1])
    gap = (x.mean(axis=1) - expected) / error
    assert np.sqrt(np.mean(gap**2)) < 1.2
    spread = x.std(axis=1, ddof=1).mean(axis=0) / np.sqrt(np.diag(cov))
    np.testing.assert_allclose(spread.mean(), 1.0, atol=0.03)
    # The edits differ from the image itself and from draws independent of the image.
    assert np.sqrt(np.mean(((x.mean(axis=1) - image) / error) ** 2)) > 3.0
    assert np.sqrt(np.mean(((x.mean(axis=1) - DATA.mean) / error) ** 2)) > 3.0


def test_what_is_kept_is_the_images_own(images, tmp_path):
    np.save(tmp_path / "left.npy", LEFT)
    found = edited(experiment(images, edit__keep=str(tmp_path / "left.npy"), edit__samples=3))
    kept = found.x[:, :, :, :2] - found.image[:, None, :, :2]
    np.testing.assert_allclose(kept, 0.0, atol=1e-6)
    assert np.std(found.x[:, :, :, 2:] - found.image[:, None, :, 2:]) > 0.05


FLOW = {"edit__method": "flow", "edit__samples": 2, "sampling__steps": 40}
FLOW |= {"edit__strength": 1.0, "sampling__grid": "uniform_lam"}


def test_up_and_down_one_flow(images):
    """Up and down the same flow gives the image back. Down the flow of other data gives the optimal
    map between the two Gaussians, because their covariances have the same eigenvectors."""
    known = experiment(images, **FLOW)
    same = edited(known)
    np.testing.assert_allclose(same.x, np.repeat(same.image[:, None], 2, 1), atol=2e-3)
    found = edited(dataclasses.replace(known, classes=Lighter(known.path)))
    expected = LIGHT.mean[0] + 0.5 * (found.image - DATA.mean[0])
    np.testing.assert_allclose(found.x[:, 0], expected, atol=5e-3)
    np.testing.assert_array_equal(found.labels, [0, 1])


def test_content_where_it_is_kept(images):
    """For independent pixels N(m, s^2) an energy of weight w acts as a likelihood at x0 hat.

    With the starting point z, `k = w s^2 / 2` and Dawson's integral F the flow ends in
    `m + 2 sqrt(k) F(sqrt(k)) (image - m) + s exp(-k) z`, and outside the kept part in `m + s z`.
    """
    apart = Gaussian(DATA.mean, 0.25**2 * np.eye(D))
    light = Gaussian(np.full(D, 0.3), 0.2**2 * np.eye(D))
    options = {"edit__keep": "left", "edit__content": 30.0, "sampling__steps": 200}
    known = experiment(images, **FLOW | options | {"edit__samples": 2})
    known = dataclasses.replace(known, predict=lambda params: apart.predict(known.path))
    guide = Lighter(known.path)
    guide.predict = lambda params, own: unconditional(light.predict(known.path))
    found = edited(dataclasses.replace(known, classes=guide))
    z, k = (found.image - apart.mean[0]) / 0.25, 30.0 * 0.2**2 / 2
    free = 0.3 + 0.2 * z
    held = 0.3 + 2 * np.sqrt(k) * dawsn(np.sqrt(k)) * (found.image - 0.3) + 0.2 * np.exp(-k) * z
    np.testing.assert_allclose(found.x[:, 0, :, :2], held[:, :, :2], atol=0.01)
    np.testing.assert_allclose(found.x[:, 0, :, 2:], free[:, :, 2:], atol=0.01)


def test_noise_in_a_region(images):
    """With `eta = 1` the edits vary in the region with noise. In the kept region without noise they
    do not vary, because the pixels are independent."""
    apart = Gaussian(DATA.mean, 0.25**2 * np.eye(D))
    options = {"edit__keep": "left", "edit__eta": 1.0, "edit__samples": 40, "sampling__steps": 200}
    known = experiment(images, **FLOW | options)
    known = dataclasses.replace(known, predict=lambda params: apart.predict(known.path))
    spread = edited(known).x.std(axis=1)
    np.testing.assert_allclose(spread[:, :, :2], 0.0, atol=1e-4)
    # From the largest noise level down nothing of the image is left, so the spread is the data's.
    np.testing.assert_allclose(spread[:, :, 2:].mean(), 0.25, rtol=0.05)


def test_steps_are_repeated(images):
    options = {"edit__repeats": 3, "edit__window": (0.0, 0.5)}
    plain, again = (edited(experiment(images, **FLOW | more)) for more in ({}, options))
    # Twenty steps are made two more times, each with Heun's two evaluations and one to go back.
    assert again.nfe == plain.nfe + 2 * 20 * 3
    np.testing.assert_allclose(again.x, plain.x, atol=0.05)


def test_an_image_is_edited_the_same_alone(images):
    """Edits of several images share batches of 4; an image's edits do not depend on the others."""
    known = experiment(images, edit__samples=6, sampling__batch_size=4)
    editing = build_editing(known)
    together = edit(known, editing, PARAMS, range(6))
    alone = edit(known, editing, PARAMS, range(4, 5))
    np.testing.assert_array_equal(alone.image[0], together.image[4])
    np.testing.assert_allclose(alone.x[0], together.x[4], atol=5e-5)


def test_pictures_of_a_folder(images, tmp_path):
    """Pictures are read in the order of names, resized, and set to the middle of their levels."""
    known = experiment(images)
    grey = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4
    Image.fromarray(grey).save(tmp_path / "b.png")
    Image.new("RGB", (4, 4), (255, 255, 255)).save(tmp_path / "a.png")
    keys = example_keys(0, np.arange(2))
    x = np.asarray(given_images(known, str(tmp_path), range(2), keys))
    np.testing.assert_allclose(x[0], 1.0 - 1.0 / LEVELS, rtol=1e-6)
    assert x[1].mean() == pytest.approx(grey.mean() / 255 * 63 / 32 - 1 + 1 / 64, abs=0.02)
    assert np.all(np.diff(x[1, :, :, 0], axis=0) > 0)
    one = np.asarray(given_images(known, str(tmp_path / "b.png"), range(1), keys[:1]))
    np.testing.assert_array_equal(one[0], x[1])


def test_files_of_a_run(images, tmp_path):
    known = experiment(images, edit__samples=4, edit__keep="left", sampling__steps=20)
    shown = run_editing(build_editing(known), known, PARAMS, tmp_path, 7, range(2, 5))
    folder = tmp_path / "edited" / "step_7"
    report = json.loads((folder / "sdedit_2-4.json").read_text())
    stored = np.load(folder / "sdedit_2-4.npz")
    assert stored["arr_0"].shape == (3, 4, *SHAPE) and stored["arr_0"].dtype == np.uint8
    np.testing.assert_array_equal(stored["indices"], [2, 3, 4])
    image = np.asarray(known.scaler.quantize(jnp.asarray(stored["image"])), float) / (LEVELS - 1)
    change = (stored["arr_0"] / (LEVELS - 1) - image[:, None])[:, :, :, 2:]
    assert report["changed"] == pytest.approx(np.sqrt(np.mean(change**2)), rel=1e-6)
    assert report["changed_kept"] == 0.0 and report["spread"] > 0.01
    assert report["nfe"] == shown["nfe"] > 0
    assert Image.open(folder / "sdedit_2-4.png").width > 4 * 5


@pytest.mark.parametrize(
    "changes, sentence",
    [
        ({"edit__method": "sdedid"}, "did you mean 'sdedit'"),
        ({"edit__images": "nowhere"}, "neither a split, 'train' or 'test', nor a picture"),
        ({"edit__strength": 1.5}, "it must be above 0 and at most 1"),
        ({"edit__unit": "parts"}, "unit is 'parts'"),
        (
            {"edit__keep": "nothing.png"},
            "edit.sdedit.keep is 'nothing.png', which is neither a file",
        ),
        ({"edit__eta": 0.5}, "edit.eta is set to 0.5, and no chosen method reads it"),
        ({"edit__method": "flow", "edit__keep": "left"}, "keeps nothing by itself"),
        ({"edit__method": "flow", "edit__window": (0.8, 0.2)}, "two rising parts"),
        ({"edit__method": "flow", "edit__source_label": 3}, "the network knows 0 classes"),
        ({"guidance__method": "pigdm"}, "which restores measurements"),
        ({"sampling__method": "ode"}, "takes steps down a grid"),
    ],
)
def test_what_cannot_be_edited(images, changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        build_editing(experiment(images, **changes))


@pytest.mark.parametrize("key", ["strength", "samples", "eta", "content"])
def test_numbers_out_of_range(images, key):
    changes = {f"edit__{key}": -1 if key == "samples" else -1.0, "edit__method": "flow"}
    with pytest.raises(ValueError, match=rf"edit\.(flow\.)?{key} is -1"):
        build_editing(experiment(images, **changes))


def test_an_edit_that_is_not_finite(images, tmp_path):
    """One of six is nan: that is said, and nothing becomes a level."""
    known = experiment(images, edit__samples=2)
    run = lambda keys, predict, guided, x: SampleResult(x.at[3, 1, 2].set(jnp.nan), None, 1)
    with pytest.raises(ValueError, match=r"^1 of 6 edits are not finite"):
        run_editing(Edit(run, None), known, PARAMS, tmp_path, 3, range(3))
    assert not list(tmp_path.iterdir())


def test_images_that_are_not_there(images):
    known = experiment(images, edit__samples=1)
    with pytest.raises(ValueError, match="test has examples 0 to 19"):
        edit(known, build_editing(known), PARAMS, range(15, 30))
