"""Samples on disk: a killed evaluation goes on and ends with the results of an undisturbed one."""

import json

import numpy as np
import pytest
from known_data import PARAMS, exact

from evaluation.report.images import to_levels
from evaluation.store.batches import open_store
from evaluation.store.sample_store import ARRAYS, SampleStore, make_plan
from evaluation.tasks import sampling
from evaluation.tasks.evaluate import evaluate
from evaluation.tasks.sampling import draw, stored_samples

INDEX = np.arange(8, 12, dtype=np.int32)
BATCH = {
    "index": INDEX,
    "x": np.arange(24, dtype=np.uint8).reshape(4, 3, 2, 1),
    "nfe": np.array([4, 5, 6, 7]),
    "failed": np.array([False, True, False, False]),
}


def test_what_is_saved_comes_back_to_the_last_bit(tmp_path):
    store = open_store(SampleStore, tmp_path / "s", {"seed": 1})
    assert store.load(2, INDEX) is None
    store.save(2, BATCH)
    found = open_store(SampleStore, tmp_path / "s", {"seed": 1}).load(2, INDEX)
    for name in ARRAYS:
        assert found[name].dtype == BATCH[name].dtype
        np.testing.assert_array_equal(found[name], BATCH[name])
    # Other samples, other batch numbers and other plans find no stored batch.
    assert store.load(2, INDEX[:3]) is None and store.load(1, INDEX) is None
    (tmp_path / "s" / "plan.json").unlink()
    assert open_store(SampleStore, tmp_path / "s", {"seed": 2}).load(2, INDEX) is None


def test_damage_anywhere_is_seen(tmp_path, capsys):
    """A file cut off at any length or with a byte changed gives no batch, or the saved batch."""
    store = open_store(SampleStore, tmp_path / "s", {"seed": 1})
    store.save(0, BATCH)
    path = store.path(0)
    whole = path.read_bytes()
    damaged = [whole[:n] for n in range(0, len(whole), 7)]
    damaged += [
        whole[:i] + bytes([whole[i] ^ 16]) + whole[i + 1 :] for i in range(0, len(whole), 5)
    ]
    unnoticed = 0
    for content in damaged:
        path.write_bytes(content)
        found = store.load(0, INDEX)
        if found is not None:
            unnoticed += 1
            assert all(np.array_equal(found[name], BATCH[name]) for name in ARRAYS)
    # Some bytes may change without an effect: dates, and one of two copies of a name.
    assert unnoticed < 0.3 * len(damaged)
    assert "computed again" in capsys.readouterr().out


CHANGES = {
    "seed": {"eval__seed": 3},
    "sampling": {"sampling__steps": 5},
    "guidance": {"guidance__scale": 3.0},
    "sde law": {"sde__beta_max": 10.0},
    "model": {"model__width": 16},
}


@pytest.mark.parametrize("keys", CHANGES)
def test_plan_changes_with_what_samples_depend_on(file, keys):
    a, b = (make_plan(exact(file, **change), PARAMS, 3) for change in ({}, CHANGES[keys]))
    assert {key for key in a if a[key] != b[key]} == set(keys.split())


def test_plan_knows_nothing_else(file):
    plan = make_plan(exact(file), PARAMS, 3)
    others = {
        "eval__num_samples": 99,
        "likelihood__adams__steps": 9,
        "guidance__dps__zeta": 0.5,
        "guidance__mask__keep": "left",
        "seed": 4,
        "eval__batch_size": 7,
    }
    assert plan == make_plan(exact(file, **others), PARAMS, 3)
    assert plan != make_plan(exact(file), {"w": np.ones(2, np.float32)}, 3)
    assert plan != make_plan(exact(file), PARAMS, 4)


def test_more_samples_go_on_from_fewer(file, tmp_path, monkeypatch):
    experiment = exact(file, sampling__batch_size=8)
    few = stored_samples(experiment, PARAMS, tmp_path / "s", 3, 20)
    seen, plain = [], sampling.in_parts
    watch = lambda run, size, index: (seen.append(list(index)), plain(run, size, index))[1]
    monkeypatch.setattr(sampling, "in_parts", watch)
    more = stored_samples(experiment, PARAMS, tmp_path / "s", 3, 30)
    # The last batch of the twenty samples had four samples. All of this batch is drawn again.
    assert seen == [[*range(16, 24)], [*range(24, 30)]]
    np.testing.assert_array_equal(more["x"][:20], few["x"])
    expected = draw(experiment, PARAMS, range(30), experiment.config.eval.seed)
    np.testing.assert_array_equal(more["x"], to_levels(experiment.scaler, expected.x)[0])


def test_killed_behind_every_batch(file, tmp_path, monkeypatch):
    """Each call is killed one batch later than the call before. The final report has the values of
    an uninterrupted evaluation."""
    options = {"sampling__batch_size": 8, "eval__num_samples": 40, "eval__batch_size": 25}
    experiment = exact(file, eval__enable_loss=False, **options)
    evaluate(experiment, PARAMS, tmp_path / "whole", 3, [], 1.0)
    save, kills = SampleStore.save, 0

    def killing(store, batch, arrays):
        save(store, batch, arrays)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(SampleStore, "save", killing)
        while kills < 5:
            with pytest.raises(KeyboardInterrupt):
                evaluate(experiment, PARAMS, tmp_path / "killed", 3, [], 1.0)
            kills += 1
            assert len(list((tmp_path / "killed" / "samples_3").glob("batch_*"))) == kills
    evaluate(experiment, PARAMS, tmp_path / "killed", 3, [], 1.0)
    found = json.loads((tmp_path / "killed" / "report.json").read_text())
    expected = json.loads((tmp_path / "whole" / "report.json").read_text())
    assert found.pop("seconds") != expected.pop("seconds")
    assert found == expected
