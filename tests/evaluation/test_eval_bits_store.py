"""Finished batches on disk are used again only if they are whole and of the same plan."""

import json
import os
from functools import partial
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from known_bits import N, closed_form, labelled, watched
from known_data import PARAMS

from evaluation.store import batches as stores
from evaluation.store.batches import hash_arrays
from evaluation.store.bits_store import BitsStore, make_plan
from evaluation.tasks.bits import data_bits

PLAN = {"seed": 1, "likelihood": {"rtol": 1e-5}}
INDEX = np.arange(3, 6)
open_store = partial(stores.open_store, BitsStore)
ROWS = {
    "index": INDEX,
    "bits_per_dim": np.float32([1 / 3, np.nan, -0.0]).astype(float),
    "stderr": np.full(3, np.nan),
    "nfe": np.array([20, 26, 10**6]),
    "failed": np.array([False, True, False]),
}


def equal(rows, other):
    assert rows.keys() == other.keys()
    for name, column in rows.items():
        assert column.dtype == other[name].dtype
        assert column.tobytes() == other[name].tobytes(), name
    return True


def test_what_is_saved_comes_back_to_the_last_bit(tmp_path):
    store = open_store(tmp_path / "s", PLAN)
    assert store.load(0, 7, INDEX) is None
    store.save(0, 7, ROWS)
    assert equal(store.load(0, 7, INDEX), ROWS)
    assert equal(open_store(tmp_path / "s", PLAN).load(0, 7, INDEX), ROWS)
    # Other batches, passes and examples find no stored rows.
    assert store.load(0, 8, INDEX) is None and store.load(1, 7, INDEX) is None
    assert store.load(0, 7, INDEX + 1) is None
    assert json.loads((tmp_path / "s" / "plan.json").read_text()) == PLAN


def test_damage_anywhere_is_seen(tmp_path):
    """A file cut off at any length or with any byte changed gives no rows, or the saved rows."""
    store = open_store(tmp_path / "s", PLAN)
    store.save(0, 0, ROWS)
    path = store.path(0, 0)
    whole = path.read_bytes()
    damaged = [whole[:n] for n in range(len(whole))]
    for i, byte in enumerate(whole):
        damaged += [whole[:i] + bytes([byte ^ flip]) + whole[i + 1 :] for flip in (1, 16, 128)]
    missed = 0
    for content in damaged:
        path.write_bytes(content)
        found = store.load(0, 0, INDEX)
        missed += found is not None and equal(found, ROWS)
    # Some bytes, such as the end of the line, may change without an effect.
    assert len(damaged) > 1000 and missed < 0.05 * len(damaged)
    path.write_bytes(b"")
    assert store.load(0, 0, INDEX) is None


def test_a_kill_before_the_renaming_leaves_no_batch(tmp_path, monkeypatch):
    store = open_store(tmp_path / "s", PLAN)

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os, "replace", killed)
        patch.setattr(os, "unlink", killed)  # a killed process deletes no files
        patch.setattr(Path, "unlink", killed)
        store.save(0, 0, ROWS)
    assert len(list(store.folder.glob("*.part"))) == 1
    assert store.load(0, 0, INDEX) is None
    open_store(tmp_path / "s", PLAN)
    assert [path.name for path in store.folder.iterdir()] == ["plan.json"]


def test_another_plan(tmp_path, capsys):
    """The batches of another plan are deleted, and one line names the difference. Other files
    stay."""
    folder = tmp_path / "s"
    store = open_store(folder, PLAN)
    assert capsys.readouterr().out == ""
    store.save(0, 0, ROWS)
    store.save(0, 1, ROWS)
    (folder / "notes.txt").write_text("mine")
    open_store(folder, PLAN)
    assert capsys.readouterr().out == f"{folder} has 2 finished batches; the others are computed.\n"
    other = open_store(folder, {**PLAN, "seed": 2, "batch_size": 4})
    (line,) = capsys.readouterr().out.splitlines()
    assert "other: batch_size, seed)" in line and "its 2 finished batches are discarded" in line
    assert sorted(path.name for path in folder.iterdir()) == ["notes.txt", "plan.json"]
    assert other.load(0, 0, INDEX) is None


def test_a_batch_of_another_plan_is_not_used_whatever_plan_json_says(tmp_path, capsys):
    """Batches of an old plan can remain after a kill during their deletion. They are not used."""
    old = open_store(tmp_path / "s", PLAN)
    old.save(0, 0, ROWS)
    (tmp_path / "s" / "plan.json").unlink()
    new = open_store(tmp_path / "s", {**PLAN, "seed": 2})
    assert new.load(0, 0, INDEX) is None
    assert "computed again" in capsys.readouterr().out
    # Batches of the same plan are used, whatever plan.json contains.
    for content in ("", "{", "[1]"):
        (tmp_path / "s" / "plan.json").write_text(content)
        assert equal(open_store(tmp_path / "s", PLAN).load(0, 0, INDEX), ROWS)


# The contents of a plan.

CHANGES = {
    "seed": {"eval__seed": 7},
    "likelihood": {"likelihood__adams__steps": 9},
    "batch_size": {"eval__batch_size": 10},
    "passes": {"eval__bpd_repeats": 3},
    "samples": {"eval__bpd_samples": 2},
    "prediction": {"prediction__kind": "x0"},
    "model": {"model__width": 16},
    "sde law": {"sde__beta_max": 10.0},
}


def plan_of(file, params=PARAMS, source=None, step=8, **changes):
    experiment = closed_form(file, **changes)
    return make_plan(experiment, params, source or experiment.test, step)


def differing(a, b):
    return " ".join(sorted((key for key in a if a[key] != b[key]), reverse=True))


@pytest.mark.parametrize("key", CHANGES)
def test_plan_changes_with_the_config(file, key):
    assert differing(plan_of(file), plan_of(file, **CHANGES[key])) == key


def test_plan_changes_with_parameters_data_and_step(file):
    plan = plan_of(file)
    assert plan == plan_of(file, {"w": np.zeros(2, np.float32)}, labelled())
    assert differing(plan, plan_of(file, {"w": jnp.asarray([0.0, 1e-7])})) == "parameters"
    assert differing(plan, plan_of(file, source=labelled(seed=2))) == "data"
    assert plan["batch_size"] == plan["size"] == N
    assert differing(plan, plan_of(file, source=labelled(n=51))) == "size data batch_size"
    assert differing(plan, plan_of(file, step=9)) == "step"
    # The plan contains neither the sampling options nor the seed of training.
    assert plan == plan_of(file, sampling__steps=7, eval__num_samples=99, seed=7)


def test_hash_of_arrays():
    a = {"x": np.zeros((2, 3), np.float32), "y": np.ones(2)}
    others = [
        {"x": np.zeros((3, 2), np.float32), "y": np.ones(2)},
        {"x": np.zeros((2, 3), np.int32), "y": np.ones(2)},
        {"z": np.zeros((2, 3), np.float32), "y": np.ones(2)},
        {"x": np.zeros((2, 3), np.float32), "y": np.array([1.0, 1.0 + 1e-16 * 4])},
    ]
    assert len({hash_arrays(tree) for tree in [a, *others]}) == 5
    transposed = {**a, "x": np.asfortranarray(a["x"])}
    assert hash_arrays(transposed) == hash_arrays(dict(reversed(a.items())))


# A whole evaluation.


def test_only_what_is_damaged_or_missing_is_computed(file, tmp_path, capsys):
    experiment, folder = closed_form(file, eval__batch_size=20, eval__bpd_repeats=2), tmp_path / "s"

    def run():
        read = []
        source = watched(experiment.test, lambda indices: read.append(int(indices[0])))
        return data_bits(experiment, PARAMS, source, folder, 8).per_example, read

    expected, read = run()
    assert len(read) == 6
    assert run()[1] == []
    (folder / "pass_0_batch_00001.json").write_bytes(b'{"plan": ')
    (folder / "pass_1_batch_00002.json").unlink()
    # One batch is replaced by a whole file of another batch.
    (folder / "pass_1_batch_00000.json").write_bytes(
        (folder / "pass_1_batch_00001.json").read_bytes()
    )
    found, read = run()
    assert read == [20, 0, 40] and np.array_equal(found, expected)
    assert capsys.readouterr().out.count("computed again") == 2


def test_an_evaluation_of_other_parameters_takes_nothing_over(file, tmp_path, capsys):
    experiment, folder = closed_form(file, eval__batch_size=20), tmp_path / "s"
    data_bits(experiment, PARAMS, experiment.test, folder, 8)
    other = closed_form(file, eval__batch_size=20, eval__seed=3)
    found = data_bits(other, PARAMS, other.test, folder, 8)
    assert "(other: seed); its 3 finished batches are discarded" in capsys.readouterr().out
    assert np.array_equal(found.per_example, data_bits(other, PARAMS, other.test).per_example)
