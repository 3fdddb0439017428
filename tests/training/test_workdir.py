"""A workdir belongs to one config."""

import errno
import json
import os

import pytest
from ml_collections import ConfigDict
from tiny import tiny

from training.run import check_steps_left
from training.workdir import claim, flatten, held, trains


def stored(workdir):
    return json.loads((workdir / "config.json").read_text())


def test_first_claim_writes_the_config_and_the_next_is_free(tmp_path):
    workdir = tmp_path / "a" / "run"
    config = tiny()
    claim(workdir, config, training=True)
    assert flatten(stored(workdir)) == flatten(json.loads(json.dumps(config.to_dict())))
    assert stored(workdir)["eval"]["features"] == ["pixels"]
    claim(workdir, config, training=True)
    claim(workdir, config, training=False)
    assert [p.name for p in workdir.iterdir()] == ["config.json"]


def test_only_training_writes(tmp_path):
    claim(tmp_path / "run", tiny(), training=False)
    assert not (tmp_path / "run").exists()


def test_another_config_is_refused_and_every_key_named(tmp_path):
    claim(tmp_path, tiny(), training=True)
    before = (tmp_path / "config.json").read_bytes()
    other = tiny(sde__beta_max=10.0, model__width=64, optim__lr=0.5, seed=3, training__log_freq=999)
    with pytest.raises(ValueError) as error:
        claim(tmp_path, other, training=True)
    text = str(error.value)
    for clause in (
        "model.width is 32 there and 64 now",
        "optim.lr is 0.001 there and 0.5 now",
        "sde.beta_max is 20.0 there and 10.0 now",
        "seed is 42 there and 3 now",
        "--force_config",
        str(tmp_path),
    ):
        assert clause in text, text
    assert "log_freq" not in text and "\n" not in text
    assert (tmp_path / "config.json").read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


def test_another_law_names_keys_that_one_side_lacks(tmp_path):
    claim(tmp_path, tiny("ve"), training=True)
    with pytest.raises(ValueError) as error:
        claim(tmp_path, tiny("vp"), training=False)
    assert "sde.name is 've' there and 'vp' now" in str(error.value)
    assert "sde.beta_max is 'absent' there and 20.0 now" in str(error.value)
    assert "sde.sigma_max is 50.0 there and 'absent' now" in str(error.value)


def test_force_keeps_every_old_file(tmp_path):
    configs = [tiny(seed=s) for s in range(3)]
    for config in configs:
        claim(tmp_path, config, True, training=True)
    assert stored(tmp_path)["seed"] == 2
    kept = sorted(tmp_path.glob("config.json.*"))
    assert [json.loads(p.read_text())["seed"] for p in kept] == [0, 1]
    # If nothing differs, forcing keeps no old file.
    claim(tmp_path, configs[-1], True, training=True)
    assert sorted(tmp_path.glob("config.json.*")) == kept


def test_what_is_forced_is_told(tmp_path, capsys):
    """`force` prints every key that differs, not only the one that the user means to change."""
    claim(tmp_path, tiny(), training=True)
    other = tiny(training__n_iters=60, model__width=64, eval__seed=5)
    assert claim(tmp_path, tiny(), True, training=True) == [] and capsys.readouterr().out == ""
    told = [
        "model.width is 32 there and 64 now",
        "training.n_iters is 6 there and 60 now",
    ]
    assert claim(tmp_path, other, True, training=False) == told[:1]
    assert claim(tmp_path, other, True, training=True) == told
    lines = capsys.readouterr().out.splitlines()
    assert lines == [f"--force_config: {text}" for text in (told[0], *told)]


def test_a_config_is_written_whole_and_only_when_it_changed(tmp_path, monkeypatch):
    claim(tmp_path, tiny(), training=True)
    path = tmp_path / "config.json"
    before = path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    claim(tmp_path, tiny(), training=True)  # nothing to write
    with pytest.raises(OSError, match=r"config\.json could not be written \(No space left"):
        claim(tmp_path, tiny(eval__seed=9), training=True)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]
    with pytest.raises(OSError, match="could not be written"):
        claim(tmp_path, tiny(seed=9), True, training=True)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("keep", [0, 0.5, None])
def test_a_damaged_config(tmp_path, keep):
    claim(tmp_path, tiny(), training=True)
    path = tmp_path / "config.json"
    text = path.read_text()
    path.write_text("[1]" if keep is None else text[: int(keep * len(text))])
    for training in (True, False):
        with pytest.raises(ValueError, match=r"config\.json is damaged: .*Delete it") as error:
            claim(tmp_path, tiny(), training=training)
        assert str(path) in str(error.value) and not isinstance(error.value, json.JSONDecodeError)
    path.unlink()
    claim(tmp_path, tiny(), training=True)
    assert path.read_text() == text


def test_checkpoints_without_a_config(tmp_path):
    """Without a config the law of the checkpoints is unknown, so training must be forced."""
    (tmp_path / "checkpoints" / "100").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"has checkpoints and no config\.json"):
        claim(tmp_path, tiny(), training=True)
    assert not (tmp_path / "config.json").exists()
    claim(tmp_path, tiny(), True, training=True)
    assert (tmp_path / "config.json").exists()


def test_force_keeps_what_was_kept(tmp_path):
    """Forcing overwrites no kept file, also after one of them was deleted."""
    for seed in range(3):
        claim(tmp_path, tiny(seed=seed), True, training=True)
    (tmp_path / "config.json.0").unlink()
    kept = (tmp_path / "config.json.1").read_bytes()
    claim(tmp_path, tiny(seed=3), True, training=True)
    assert (tmp_path / "config.json.1").read_bytes() == kept
    assert json.loads((tmp_path / "config.json.0").read_text())["seed"] == 2


def test_force_for_evaluation_leaves_the_file(tmp_path):
    claim(tmp_path, tiny(), training=True)
    before = (tmp_path / "config.json").read_bytes()
    claim(tmp_path, tiny(model__width=64), True, training=False)
    assert (tmp_path / "config.json").read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


FREE = {
    "sampling__steps": 7,
    "sampling__predictor": "heun",
    "likelihood__rademacher__num_probes": 3,
    "eval__num_samples": 5,
    "eval__seed": 9,
    "training__log_freq": 7,
    "training__eval_freq": 7,
    "training__snapshot_freq": 7,
    "training__snapshot_sampling": True,
    "training__keep_snapshots": 7,
    "training__keep_every": 7,
    "training__save_minutes": 7.0,
    "training__progress": True,
}
FREE_TO_EVALUATE = {
    "seed": 7,
    "loss__stratify": False,
    "optim__lr": 7.0,
    "optim__warmup": 7,
    "training__n_iters": 70,
    "training__batch_size": 70,
    "training__ema_rate": 0.7,
    "training__n_jitted_steps": 2,
}
NEVER_FREE = {
    "sde__beta_min": 0.7,
    "sde__t0": 1e-4,
    "model__dropout": 0.7,
    "model__width": 7,
    "prediction__sigma_data": 0.6,
    "prediction__kind": "eps",
    "data__centered": False,
    "data__uniform_dequantization": False,
}


@pytest.mark.parametrize("key", [*FREE, *FREE_TO_EVALUATE, *NEVER_FREE])
def test_which_keys_may_change(tmp_path, key):
    value = {**FREE, **FREE_TO_EVALUATE, **NEVER_FREE}[key]
    claim(tmp_path, tiny(), training=True)
    for training, refused in (
        (True, key not in FREE),
        (False, key in NEVER_FREE),
    ):
        if refused:
            with pytest.raises(ValueError, match=key.replace("__", ".")):
                claim(tmp_path, tiny(**{key: value}), training=training)
        else:
            claim(tmp_path, tiny(**{key: value}), training=training)


def test_the_place_of_the_data_may_change(tmp_path):
    from configs.base import base

    config = base("vp", "mlp", "npz")
    config.data.path = "here.npz"
    claim(tmp_path, config, training=True)
    config.data.path = "there.npz"
    claim(tmp_path, config, training=True)
    assert stored(tmp_path)["data"]["path"] == "there.npz"


def test_the_number_of_workers_may_change(tmp_path):
    """Also from a config of a version that had no such key."""
    from configs.base import base

    config = base("vp", "mlp", "image_folder")
    old = config.copy_and_resolve_references()
    del old.data.workers
    claim(tmp_path, old, training=True)
    for workers in (-1, 4):
        config.data.workers = workers
        claim(tmp_path, config, training=True)
        assert stored(tmp_path)["data"]["workers"] == workers


def test_steps_a_call_must_not_overshoot_the_end(tmp_path):
    """From step 3 to 6 there is no whole number of pairs: the run is refused before it writes."""
    (tmp_path / "checkpoints" / "3").mkdir(parents=True)
    before = sorted(tmp_path.rglob("*"))
    section = ConfigDict({"n_iters": 6, "n_jitted_steps": 2})
    with pytest.raises(ValueError, match=r"3 steps are left from 3 .*n_jitted_steps = 2"):
        check_steps_left(tmp_path, section)
    assert sorted(tmp_path.rglob("*")) == before
    check_steps_left(tmp_path, ConfigDict({"n_iters": 7, "n_jitted_steps": 2}))
    check_steps_left(tmp_path / "new", section)


def test_a_key_that_came_later(tmp_path):
    """A stored config without a newer key counts as one with the value of the earlier behaviour."""
    claim(tmp_path, tiny(), training=True)
    content = stored(tmp_path)
    del content["training"]["accumulate"]
    (tmp_path / "config.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"training\.accumulate is 1 there and 2 now"):
        claim(tmp_path, tiny(training__accumulate=2), training=True)
    claim(tmp_path, tiny(), training=True)


@pytest.mark.parametrize("name", ["lock", ".writable"])
def test_a_file_behind_a_link_is_left_alone(tmp_path, name):
    """A lock that is a link is refused; a link of another name is not touched."""
    (tmp_path / "mine").write_text("precious")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / name).symlink_to(tmp_path / "mine")
    if name == "lock":
        with pytest.raises(ValueError, match="lock is a link"), held(tmp_path / "run"):
            pass
    else:
        with held(tmp_path / "run"):
            pass
    assert (tmp_path / "mine").read_text() == "precious"


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS])
def test_a_file_system_without_locks(tmp_path, monkeypatch, capsys, number):
    """Training goes on without a lock and says that the file system has none."""

    def refused(file, how):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", refused)
    with held(tmp_path):
        assert trains(tmp_path)
    assert "has no locks" in capsys.readouterr().out


def test_who_trains(tmp_path):
    assert not trains(tmp_path)
    with held(tmp_path):
        assert trains(tmp_path)
    assert not trains(tmp_path)
