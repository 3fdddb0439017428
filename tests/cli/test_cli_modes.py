"""The four modes one after the other in one workdir, as in the first lines of `main.py`."""

import json
import shutil

import numpy as np
import pytest
from program import inside
from tiny import flags

from training.metrics import read_metrics

pytestmark = [
    pytest.mark.usefixtures("damages"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

# Other tests cover bits/dim, which would be the most expensive part here.
CHANGES = {"eval__enable_bpd": False, "training__eval_freq": 3}


def call(workdir, mode, *more, **changes):
    given = flags(**{**CHANGES, **changes})
    config = "configs/digits_vp.py"
    return inside("--config", config, "--workdir", workdir, "--mode", mode, *given, *more)


@pytest.fixture(scope="module")
def trained(digits, tmp_path_factory):
    """A copy of the trained workdir, which the tests of this module share and write to."""
    return shutil.copytree(digits, tmp_path_factory.mktemp("cli") / "run")


@pytest.fixture
def beside(digits, tmp_path):
    """A fresh copy of the trained workdir for one test."""
    return shutil.copytree(digits, tmp_path / "run")


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def line(result):
    """Return the one error line of a failed call."""
    assert result.status != 0 and len(result.err.splitlines()) == 1, result
    return result.err


def test_train(digits):
    files = ["checkpoints", "config.json", "data.json", "lock", "metrics.jsonl", "tensorboard"]
    assert names(digits) == files
    assert names(digits / "checkpoints") == ["3", "6"]
    rows = read_metrics(digits)
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert [row["step"] for row in rows if "eval_loss" in row] == [3, 6]
    assert json.loads((digits / "config.json").read_text())["model"]["width"] == 32


def test_eval(trained):
    result = call(trained, "eval")
    assert (result.status, result.err) == (0, "")
    report = json.loads((trained / "report.json").read_text())
    assert report["step"] == 6 and report["data"]["test"] == 297
    assert {"samples_test", "train_test"} <= report["frechet"].keys()
    value = report["frechet"]["samples_test"]
    assert f"{value:.4g}" in result.out and "pixels" in result.out
    assert np.load(trained / "samples.npz")["arr_0"].shape == (40, 8, 8, 1)
    html = (trained / "report.html").read_text()
    assert html.count("data:image/png") == 3 and "http" not in html.replace("http://www.w3", "")
    # Training logged the same loss of the same averaged parameters.
    logged = read_metrics(trained)[-1]["eval_loss"]
    assert report["eval_loss"] == pytest.approx(logged, rel=1e-5)
    assert report["seconds"]["train"] == pytest.approx(
        sum(row["seconds"] + row.get("action_seconds", 0) for row in read_metrics(trained))
    )


def test_every_checkpoint(trained):
    quick = {"eval__enable_sampling": False, "eval__all_ckpts": True}
    result = call(trained, "eval", **quick)
    assert result.status == 0, result.err
    found = [json.loads((trained / f"report_{step}.json").read_text()) for step in (3, 6)]
    logged = [row["eval_loss"] for row in read_metrics(trained) if "eval_loss" in row]
    assert [r["eval_loss"] for r in found] == pytest.approx(logged, rel=1e-5)
    # Three steps take less time than six.
    assert found[0]["seconds"]["train"] < found[1]["seconds"]["train"]
    assert call(trained, "eval", "--step", 3, eval__enable_sampling=False).status == 0
    assert json.loads((trained / "report.json").read_text())["step"] == 3
    text = line(call(trained, "eval", eval__begin_ckpt=4, eval__end_ckpt=5))
    assert "eval.begin_ckpt = 4" in text and "steps 3, 6" in text
    assert "steps 3, 6" in line(call(trained, "eval", "--step", 4))


def test_waiting(trained):
    """With all checkpoints present `--wait` evaluates each of them and ends without waiting."""
    result = call(trained, "eval", "--wait", eval__enable_sampling=False)
    assert result.status == 0, result.err
    heads = [text for text in result.out.splitlines() if text.startswith("checkpoint")]
    assert heads == ["checkpoint 3", "checkpoint 6"]
    assert "--step is 3 and --wait takes every checkpoint" in line(
        call(trained, "eval", "--wait", "--step", 3)
    )


@pytest.mark.parametrize("which", ["--wait", "--config.eval.all_ckpts"])
def test_each_checkpoint_but_a_damaged_one(beside, which):
    damage(beside / "checkpoints" / "3", "truncated")
    result = call(beside, "eval", which, eval__enable_sampling=False)
    assert (result.status, result.err) == (0, "")
    assert "checkpoint 6\n" in result.out and "checkpoint 3\n" not in result.out
    assert result.out.count("cannot be read") == result.out.count("It is passed over.") == 1


def test_sample(trained):
    result = call(trained, "sample", "--seeds", "3-12")
    assert (result.status, result.err) == (0, "")
    folder = trained / "samples" / "step_6"
    ten = np.load(folder / "samples_3-12.npz")
    assert ten["arr_0"].shape == (10, 8, 8, 1) and ten["seeds"].tolist() == list(range(3, 13))
    assert (folder / "sample.png").read_bytes().startswith(b"\x89PNG")
    result = call(trained, "sample", "--seeds", "7")
    one = np.load(folder / "samples_7-7.npz")
    assert one["seeds"].tolist() == [7]
    np.testing.assert_array_equal(one["arr_0"], ten["arr_0"][4:5])


def test_fid_stats(trained):
    result = call(trained, "fid_stats")
    assert (result.status, result.err) == (0, "")
    assert result.out == f"wrote {trained / 'stats' / 'digits_pixels.npz'}\n"
    stats = np.load(trained / "stats" / "digits_pixels.npz")
    assert stats["mu"].shape == (64,) and stats["n"] == 1500


def test_another_config(trained):
    before = names(trained), (trained / "config.json").read_bytes()
    for mode in ("train", "eval", "sample"):
        text = line(call(trained, mode, sde__beta_max=10.0, model__dropout=0.5))
        assert "sde.beta_max is 20.0 there and 10.0 now" in text
        assert "model.dropout is 0.25 there and 0.5 now" in text and "--force_config" in text
    assert "optim.lr" in line(call(trained, "train", optim__lr=0.5))
    assert (names(trained), (trained / "config.json").read_bytes()) == before
    # Keys that do not affect the parameters may change.
    assert call(trained, "sample", "--seeds", "1", sampling__steps=2, eval__seed=3).status == 0


def test_another_network_by_force(beside):
    text = line(call(beside, "eval", "--force_config", model__width=48))
    assert "of another network" in text and "has shape (64,) there and (96,)" in text


def test_force_goes_on_with_the_new_config(beside):
    shutil.rmtree(beside / "checkpoints" / "6")
    result = call(beside, "train", "--force_config", seed=7)
    assert result.status == 0, result.err
    assert "from step 3 to 6" in result.out
    told = "seed is 42 there and 7 now"
    assert f"--force_config: {told}\n" in result.out
    assert [row["forced"] for row in read_metrics(beside) if "forced" in row] == [[told]]
    assert names(beside / "checkpoints") == ["3", "6"]
    old, new = (
        json.loads((beside / name).read_text())["seed"] for name in ("config.json.0", "config.json")
    )
    assert (old, new) == (42, 7)


def damage(folder, harm):
    for path in (folder / "default" / "d").iterdir():
        content = path.read_bytes()
        if harm == "truncated":
            path.write_bytes(content[: len(content) // 2])
        elif harm == "of_garbage":
            path.write_bytes(b"x" * len(content))
    if harm == "without_its_arrays":
        shutil.rmtree(folder / "default")


@pytest.mark.parametrize("harm", ["truncated", "without_its_arrays", "of_garbage"])
def test_damaged_checkpoint(beside, harm):
    """A damaged checkpoint gives one line. Without `--step` the checkpoint before it is used, and
    training moves the damaged one away. One of the three kinds of damage tests the latter."""
    folder = beside / "checkpoints" / "6"
    damage(folder, harm)
    text = line(call(beside, "sample", "--step", "6"))
    assert f"{folder} cannot be read" in text and "delete that folder" in text
    if harm != "truncated":
        return
    result = call(beside, "sample", "--seeds", "0")
    assert (result.status, result.err) == (0, "")
    assert f"{folder} cannot be read" in result.out and folder.is_dir()
    assert (beside / "samples" / "step_3" / "samples_0-0.npz").is_file()
    result = call(beside, "train")
    assert (result.status, result.err) == (0, "")
    assert f"{folder} cannot be read" in result.out and "from step 3 to 6" in result.out
    assert names(beside / "damaged") == ["6"] and names(beside / "checkpoints") == ["3", "6"]


def test_what_orbax_says_of_damage_is_not_heard(program, beside):
    """orbax writes long messages from its own threads; none of them reaches standard error."""
    damage(beside / "checkpoints" / "6", "truncated")
    given = ("--config", "configs/digits_vp.py", "--workdir", beside, *flags(**CHANGES))
    text = line(program(*given, "--mode", "sample", "--step", 6))
    assert "cannot be read" in text and "delete that folder" in text


def test_half_written_checkpoint(beside, digits):
    folder = beside / "checkpoints"
    (folder / "6").rename(folder / "6.orbax-checkpoint-tmp-1700000000000000")
    result = call(beside, "train")
    assert result.status == 0, result.err
    assert "from step 3 to 6" in result.out
    a, b = (read_metrics(w)[-1]["training_loss"] for w in (beside, digits))
    assert a == b


def test_pictures_and_progress(tmp_path):
    """Each snapshot draws a picture. The progress bar, which other tests switch off, goes to
    standard error."""
    shown = {"training__snapshot_sampling": True, "training__progress": True}
    result = call(tmp_path, "train", **shown)
    assert result.status == 0 and "6/6" in result.err and "loss" in result.err
    for step in (3, 6):
        picture = tmp_path / "samples" / f"step_{step}" / "sample.png"
        assert picture.read_bytes().startswith(b"\x89PNG")
    rows = read_metrics(tmp_path)
    assert [row["step"] for row in rows if "sample_nfe" in row] == [3, 6]


def test_fusions_that_are_wrong_are_off(program):
    """The program switches off the fusions that test_platform.py shows to be wrong. XLA flags of
    the caller are kept and come after."""
    script = "import os; print(os.environ['XLA_FLAGS'])"
    flags_of_xla = program.script(script, devices=2).out
    assert "--xla_cpu_experimental_ynn_fusion_type= " in flags_of_xla
    assert "device_count=2" in flags_of_xla.split("fusion_type=")[1]
