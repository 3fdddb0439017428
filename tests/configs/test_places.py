"""Every path in a config may begin with `~`, which is expanded to the home folder."""

from pathlib import Path

import pytest

from builders.experiment import build
from builders.places import expanded, place
from configs.base import base
from training.workdir import flatten

PATHS = (
    "data.path",
    "edit.images",
    "edit.keep",
    "eval.classifier",
    "eval.statistics",
    "eval.weights",
    "guidance.classifier",
    "guidance.dataset",
    "guidance.mask.keep",
    "guidance.measurement",
    "latents.file",
    "sampling.chain_network",
    "sampling.schedule",
    "sde.table",
)


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def test_paths_of_a_config(home):
    config = base("kinetic", "mlp", "npz")
    config.update_from_flattened_dict(dict.fromkeys(PATHS, "~/x/y"))
    before, after = flatten(config.to_dict()), flatten(expanded(config).to_dict())
    assert {key for key in before if before[key] != after[key]} == set(PATHS)
    assert {after[key] for key in PATHS} == {f"{home}/x/y"}
    assert config.sde.table == "~/x/y"


def test_what_is_no_such_path_stays(home):
    config = base("vp", "mlp", "npz")
    config.data.path = "a/~/b"
    assert expanded(config) is config
    assert place("a/~/b") == Path("a/~/b") and place("~") == home


def test_build(home):
    config = base("kinetic", "mlp", "digits")
    config.sde.table = "~/table.json"
    with pytest.raises((OSError, ValueError), match=f"{home}/table.json"):
        build(config)
