"""A classifier is trained in one workdir and guides the samples of a run in another."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image
from program import inside
from tiny import flags

VP = "configs/digits_vp.py"
# The changes that TINY makes for the other networks, for a classifier.
CLASSIFIER = {
    "model.width": 32,
    "model.depth": 1,
    "model.time_dim": 16,
    "training.batch_size": 64,
    "training.n_iters": 40,
    "training.log_freq": 20,
    "training.eval_freq": 0,
    "training.snapshot_freq": 40,
    "training.progress": False,
    "optim.warmup": 2,
    "eval.batch_size": 99,
}


@pytest.fixture(scope="module")
def workdirs(digits, tmp_path_factory):
    folder = tmp_path_factory.mktemp("guided")
    return folder / "classifier", shutil.copytree(digits, folder / "run")


@pytest.fixture(scope="module")
def trained(workdirs):
    """Train a classifier for 40 steps, evaluate it, and return the output of the evaluation."""
    given = [f"--config.{key}={value}" for key, value in CLASSIFIER.items()]
    call = ("--config", "configs/digits_vp_classifier.py", "--workdir", workdirs[0])
    results = [inside(*call, "--mode", mode, *given) for mode in ("train", "eval")]
    for result in results:
        assert (result.status, result.err) == (0, ""), result
    return results[1].out


def test_accuracy_of_a_classifier(trained, workdirs):
    assert "Accuracy on test at noise level 0.3" in trained
    report = json.loads((workdirs[0] / "report.json").read_text())
    # After 40 steps the accuracy is above that of guessing, 0.1.
    assert 0.15 < report["classifier"][0]["accuracy"] <= 1.0
    assert report["eval_loss"] < np.log(10)


def test_sampling_a_class(trained, workdirs):
    classifier, run = workdirs
    given = {"guidance__method": "classifier", "guidance__classifier": str(classifier)}
    guided = flags(**given, guidance__scale=30.0)
    call = ("--config", VP, "--workdir", run, "--mode", "sample", "--seeds", "0-11")
    result = inside(*call, *guided)
    assert (result.status, result.err) == (0, "")
    file = dict(np.load(run / "samples" / "step_6" / "samples_0-11.npz"))
    np.testing.assert_array_equal(file["labels"], np.arange(12) % 10)
    assert inside(*call, *flags()).status == 0
    alone = np.load(run / "samples" / "step_6" / "samples_0-11.npz")
    assert "labels" not in alone and not np.array_equal(alone["arr_0"], file["arr_0"])


def test_a_picture_is_edited(trained, workdirs, tmp_path):
    run = workdirs[1]
    strokes = np.zeros((16, 16), np.uint8)
    strokes[:, 6:9] = 255
    Image.fromarray(strokes).save(tmp_path / "one.png")
    given = flags(edit__method="sdedit", edit__images=str(tmp_path), edit__samples=3)
    call = ("--config", VP, "--workdir", run, "--seeds", "0")
    result = inside(*call, "--mode", "sample", *given)
    assert (result.status, result.err) == (0, "")
    stored = np.load(run / "edited" / "step_6" / "sdedit_0-0.npz")
    assert stored["arr_0"].shape == (1, 3, 8, 8, 1)
    assert stored["image"][0, :, 3, 0].min() > stored["image"][0, :, 0, 0].max()


@pytest.mark.parametrize("method", [{"guidance__method": "pigdm"}, {"edit__method": "sdedit"}])
def test_what_takes_images_is_sampled(trained, workdirs, method):
    """Methods that take images work only in mode `sample`. In mode `eval` they would have no
    effect, but the report would name them."""
    given = flags(**method, guidance__noise_std=0.1)
    result = inside("--config", VP, "--workdir", workdirs[1], "--mode", "eval", *given)
    assert result.status != 0 and len(result.err.splitlines()) == 1, result
    assert "which takes images in --mode sample, and --mode is eval" in result.err


@pytest.mark.parametrize(
    "config, changes, sentence",
    [
        (
            VP,
            {"guidance__method": "classifer"},
            "'classifer'; did you mean 'classifier'",
        ),
        (VP, {"guidance__method": "classifier_free"}, "the network knows no classes"),
        (VP, {"guidance__method": "classifier", "guidance__classifier": "RUN"}, "no classifier"),
        (
            VP,
            {"guidance__method": "impute", "guidance__mask": "lft"},  # an old name
            "guidance.mask.keep is 'lft', which is neither a file nor one of box",
        ),
        (
            VP,
            {"guidance__method": "impute", "guidance__blur__std": 2.0},
            "guidance.blur.std is set to 2.0, and no chosen method reads it",
        ),
        ("configs/digits_ve.py", {}, "has sde = "),
        ("classifier", {}, "--mode sample needs a score"),
    ],
)
def test_one_sentence(trained, workdirs, tmp_path, config, changes, sentence):
    classifier, run = workdirs
    changes = {key: str(run) if v == "RUN" else v for key, v in changes.items()}
    if config == "classifier":
        config, run = "configs/digits_vp_classifier.py", classifier
        given = [f"--config.{key}={value}" for key, value in CLASSIFIER.items()]
    else:
        if config != VP:
            run = tmp_path
            changes = {"guidance__method": "classifier", "guidance__classifier": str(classifier)}
        given = flags(**changes)
    result = inside("--config", config, "--workdir", run, "--mode", "sample", *given)
    assert result.status != 0 and len(result.err.splitlines()) == 1, result
    assert sentence in result.err
