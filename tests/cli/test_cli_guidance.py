"""A classifier and a guided run, one after the other, each in its workdir."""

import json

import numpy as np
import pytest
from PIL import Image
from tiny import flags

VP = "configs/digits_vp.py"
# What TINY has of the other networks.
CLASSIFIER = {
    "model.width": 32,
    "model.depth": 1,
    "model.time_dim": 16,
    "training.batch_size": 64,
    "training.n_iters": 40,
    "training.log_freq": 20,
    "training.eval_freq": 20,
    "training.snapshot_freq": 40,
    "training.progress": False,
    "optim.warmup": 2,
    "eval.batch_size": 99,
}


@pytest.fixture(scope="module")
def workdirs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("guided")
    return folder / "classifier", folder / "run"


@pytest.fixture(scope="module")
def trained(program, workdirs):
    """A classifier of a few steps, and a network of fewer."""
    classifier, run = workdirs
    given = [f"--config.{key}={value}" for key, value in CLASSIFIER.items()]
    config = "configs/digits_vp_classifier.py"
    call = ("--config", config, "--workdir", classifier)
    results = [
        program(*call, "--mode", "train", *given),
        program(*call, "--mode", "eval", *given),
        program("--config", VP, "--workdir", run, "--mode", "train", *flags()),
    ]
    for result in results:
        assert (result.status, result.err) == (0, ""), result
    return results


def test_accuracy_of_a_classifier(trained, workdirs):
    assert "Accuracy on test at noise level 0.3" in trained[1].out
    report = json.loads((workdirs[0] / "report.json").read_text())
    # After forty steps it has learnt something.
    assert 0.15 < report["classifier"][0]["accuracy"] <= 1.0
    assert report["eval_loss"] < np.log(10)


def test_sampling_a_class(program, trained, workdirs):
    classifier, run = workdirs
    given = flags(guidance__method="classifier", guidance__classifier=str(classifier))
    call = ("--config", VP, "--workdir", run, "--mode", "sample", "--seeds", "0-11", *given)
    result = program(*call)
    assert (result.status, result.err) == (0, "")
    file = dict(np.load(run / "samples" / "step_6" / "samples_0-11.npz"))
    np.testing.assert_array_equal(file["labels"], np.arange(12) % 10)
    other = program(*call, "--config.guidance.scale=30.")
    assert other.status == 0
    moved = np.load(run / "samples" / "step_6" / "samples_0-11.npz")["arr_0"]
    assert not np.array_equal(moved, file["arr_0"])


def test_a_picture_is_edited(program, trained, workdirs, tmp_path):
    run = workdirs[1]
    strokes = np.zeros((16, 16), np.uint8)
    strokes[:, 6:9] = 255
    Image.fromarray(strokes).save(tmp_path / "one.png")
    given = flags(edit__method="sdedit", edit__images=str(tmp_path), edit__samples=3)
    call = ("--config", VP, "--workdir", run, "--seeds", "0")
    result = program(*call, "--mode", "sample", *given)
    assert (result.status, result.err) == (0, "")
    stored = np.load(run / "edited" / "step_6" / "sdedit_0-0.npz")
    assert stored["arr_0"].shape == (1, 3, 8, 8, 1)
    assert stored["image"][0, :, 3, 0].min() > stored["image"][0, :, 0, 0].max()


@pytest.mark.parametrize("method", [{"guidance__method": "pigdm"}, {"edit__method": "sdedit"}])
def test_what_takes_images_is_sampled(program, trained, workdirs, method):
    """By no other mode, whose report would name a guide that nothing follows."""
    given = flags(**method, guidance__noise_std=0.1)
    result = program("--config", VP, "--workdir", workdirs[1], "--mode", "eval", *given)
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
        ("configs/digits_ve.py", {}, "has sde = "),
        ("classifier", {}, "--mode sample needs a score"),
    ],
)
def test_one_sentence(program, trained, workdirs, tmp_path, config, changes, sentence):
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
    result = program("--config", config, "--workdir", run, "--mode", "sample", *given)
    assert result.status != 0 and len(result.err.splitlines()) == 1, result
    assert sentence in result.err
