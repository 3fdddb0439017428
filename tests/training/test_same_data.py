"""A run refuses to go on with data other than those it began with."""

import dataclasses

import numpy as np
import pytest
from PIL import Image
from tiny import tiny

import data
from builders.experiment import build
from data.source import from_array
from training.run import run_training
from training.same_data import check_data

LEVELS = np.random.default_rng(0).integers(0, 17, (30, 4, 4, 1)).astype(np.uint8)


def source(array=LEVELS, labels=None):
    return from_array("made", "train", array, labels, 17)


def changed(place):
    array = LEVELS.copy()
    array[place] = (array[place] + 1) % 17
    return array


@pytest.mark.parametrize(
    "other, key",
    [
        (source(LEVELS[:10]), "size was 30 and is 10"),
        (source(changed((14, 2, 1, 0))), "digest was"),
        (source(labels=np.arange(30)), "digest was"),
    ],
)
def test_other_data_are_refused(tmp_path, other, key):
    """Data with one changed value in the middle, fewer examples, or new labels are refused."""
    check_data(tmp_path, source())
    check_data(tmp_path, source(LEVELS.copy()))
    before = (tmp_path / "data.json").read_bytes()
    with pytest.raises(ValueError, match=f"have changed since it began .*data.{key}"):
        check_data(tmp_path, other)
    assert (tmp_path / "data.json").read_bytes() == before
    assert any(key in said for said in check_data(tmp_path, other, force=True))
    assert (tmp_path / "data.json.0").read_bytes() == before
    assert check_data(tmp_path, other) == []


def test_a_folder_of_pictures(tmp_path):
    """A copy of a folder has the same digest; one more or one different picture changes it."""

    def folder(name, *values):
        (tmp_path / name).mkdir()
        for i, value in enumerate(values):
            noise = np.random.default_rng(value).integers(0, 256, (5, 5)).astype(np.uint8)
            Image.fromarray(noise if value else 0 * noise).save(tmp_path / name / f"{i}.png")
        return data.load("image_folder", "train", path=str(tmp_path / name), holdout=0.0)

    sources = [
        folder("a", 1, 2, 3),
        folder("b", 1, 2, 3),
        folder("c", 1, 2, 3, 4),
        folder("d", 1, 0, 3),
    ]
    first, copy, more, other = (each.identity["digest"] for each in sources)
    assert first == copy and len({first, more, other}) == 3


def test_a_workdir_of_before_or_a_damaged_file(tmp_path):
    (tmp_path / "data.json").write_text("[1")
    assert check_data(tmp_path, source()) == []
    assert check_data(tmp_path, source()) == []


def test_a_run_with_other_data(tmp_path):
    experiment = build(tiny(training__n_iters=2, training__snapshot_freq=0))
    run_training(experiment, tmp_path)
    digits = experiment.train.fetch(np.arange(1500))[::-1]
    other = from_array("digits", "train", digits, experiment.train.labels, 17)
    with pytest.raises(ValueError, match="The data of this run have changed"):
        run_training(dataclasses.replace(experiment, train=other), tmp_path)
