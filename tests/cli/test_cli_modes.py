"""The four modes one after the other in one workdir, as in the first lines of `main.py`."""

import json
import shutil

import numpy as np
import pytest
from tiny import flags

from training.metrics import read_metrics

# Bits/dim are the subject of other tests, and the most expensive part here.
CHANGES = {"eval__enable_bpd": False, "training__eval_freq": 3, "eval__num_samples": 40}


@pytest.fixture(scope="module")
def call(program, tmp_path_factory):
    """`call(mode, *more, **changes)` in one workdir, which is `call.workdir`."""
    workdir = tmp_path_factory.mktemp("cli") / "run"

    def call(mode, *more, workdir=workdir, **changes):
        given = flags(**{**CHANGES, **changes})
        config = "configs/digits_vp.py"
        return program("--config", config, "--workdir", workdir, "--mode", mode, *given, *more)

    call.workdir = workdir
    return call


@pytest.fixture
def beside(call, request):
    """A new workdir next to that one, and so with the same store of compiled programs."""
    return call.workdir.parent / request.node.name


@pytest.fixture(scope="module")
def trained(call):
    result = call("train")
    assert (result.status, result.err) == (0, "")
    assert result.out.splitlines()[-2].endswith("from step 0 to 6")
    return call.workdir


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def line(result):
    """The one line of a call that failed."""
    assert result.status != 0 and len(result.err.splitlines()) == 1, result
    return result.err


def test_train(trained):
    files = ["checkpoints", "config.json", "lock", "metrics.jsonl", "tensorboard"]
    assert names(trained) == files
    assert names(trained / "checkpoints") == ["3", "6"]
    rows = read_metrics(trained)
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert [row["step"] for row in rows if "eval_loss" in row] == [3, 6]
    assert json.loads((trained / "config.json").read_text())["model"]["width"] == 32


def test_eval(call, trained):
    result = call("eval")
    assert (result.status, result.err) == (0, "")
    report = json.loads((trained / "report.json").read_text())
    assert report["step"] == 6 and report["data"]["test"] == 297
    assert {"samples_test", "train_test"} <= report["frechet"].keys()
    value = report["frechet"]["samples_test"]
    assert f"{value:.4g}" in result.out and "pixels" in result.out
    assert np.load(trained / "samples.npz")["arr_0"].shape == (40, 8, 8, 1)
    html = (trained / "report.html").read_text()
    assert html.count("data:image/png") == 3 and "http" not in html.replace("http://www.w3", "")
    # The number that training logged is the same loss of the same averaged parameters.
    logged = read_metrics(trained)[-1]["eval_loss"]
    assert report["eval_loss"] == pytest.approx(logged, rel=1e-5)
    assert report["seconds"]["train"] == pytest.approx(
        sum(row["seconds"] + row.get("action_seconds", 0) for row in read_metrics(trained))
    )


def test_every_checkpoint(call, trained):
    quick = {"eval__enable_sampling": False, "eval__all_ckpts": True}
    result = call("eval", **quick)
    assert result.status == 0, result.err
    found = [json.loads((trained / f"report_{step}.json").read_text()) for step in (3, 6)]
    logged = [row["eval_loss"] for row in read_metrics(trained) if "eval_loss" in row]
    assert [r["eval_loss"] for r in found] == pytest.approx(logged, rel=1e-5)
    # Three steps take less time than six.
    assert found[0]["seconds"]["train"] < found[1]["seconds"]["train"]
    assert call("eval", "--step", 3, eval__enable_sampling=False).status == 0
    assert json.loads((trained / "report.json").read_text())["step"] == 3
    text = line(call("eval", eval__begin_ckpt=4, eval__end_ckpt=5))
    assert "eval.begin_ckpt = 4" in text and "steps 3, 6" in text
    assert "steps 3, 6" in line(call("eval", "--step", 4))


def test_waiting(call, trained):
    """Every checkpoint is there, so nothing is waited for; each is evaluated, and then it ends."""
    result = call("eval", "--wait", eval__enable_sampling=False)
    assert result.status == 0, result.err
    heads = [text for text in result.out.splitlines() if text.startswith("checkpoint")]
    assert heads == ["checkpoint 3", "checkpoint 6"]
    assert "--step is 3 and --wait takes every checkpoint" in line(
        call("eval", "--wait", "--step", 3)
    )


def test_sample(call, trained):
    result = call("sample", "--seeds", "3-12")
    assert (result.status, result.err) == (0, "")
    folder = trained / "samples" / "step_6"
    ten = np.load(folder / "samples_3-12.npz")
    assert ten["arr_0"].shape == (10, 8, 8, 1) and ten["seeds"].tolist() == list(range(3, 13))
    assert (folder / "sample.png").read_bytes().startswith(b"\x89PNG")
    result = call("sample", "--seeds", "7")
    one = np.load(folder / "samples_7-7.npz")
    assert one["seeds"].tolist() == [7]
    np.testing.assert_array_equal(one["arr_0"], ten["arr_0"][4:5])


def test_fid_stats(call, trained):
    result = call("fid_stats")
    assert (result.status, result.err) == (0, "")
    assert result.out == f"wrote {trained / 'stats' / 'digits_pixels.npz'}\n"
    stats = np.load(trained / "stats" / "digits_pixels.npz")
    assert stats["mu"].shape == (64,) and stats["n"] == 1500


def test_another_config(call, trained):
    before = names(trained), (trained / "config.json").read_bytes()
    for mode in ("train", "eval", "sample"):
        text = line(call(mode, sde__beta_max=10.0, model__dropout=0.5))
        assert "sde.beta_max is 20.0 there and 10.0 now" in text
        assert "model.dropout is 0.25 there and 0.5 now" in text and "--force_config" in text
    assert "optim.lr" in line(call("train", optim__lr=0.5))
    assert (names(trained), (trained / "config.json").read_bytes()) == before
    # What does not change the parameters may change.
    assert call("sample", "--seeds", "1", sampling__steps=2, eval__seed=3).status == 0


def test_another_network_by_force(call, trained, beside):
    shutil.copytree(trained, beside)
    text = line(call("eval", "--force_config", workdir=beside, model__width=48))
    assert "of another network" in text and "has shape (64,) there and (96,)" in text


def test_force_goes_on_with_the_new_config(call, trained, beside):
    shutil.copytree(trained, beside)
    result = call("train", "--force_config", workdir=beside, training__n_iters=8)
    assert result.status == 0, result.err
    assert "from step 6 to 8" in result.out
    told = "training.n_iters is 6 there and 8 now"
    assert f"--force_config: {told}\n" in result.out
    assert [row["forced"] for row in read_metrics(beside) if "forced" in row] == [[told]]
    assert names(beside / "checkpoints") == ["3", "6", "8"]
    old, new = (
        json.loads((beside / name).read_text())["training"]["n_iters"]
        for name in ("config.json.0", "config.json")
    )
    assert (old, new) == (6, 8)


@pytest.mark.parametrize("harm", ["truncated", "without_its_arrays", "of_garbage"])
def test_damaged_checkpoint(call, trained, beside, harm):
    """One line, though orbax has much to say; the one before is taken, by training for good."""
    workdir = shutil.copytree(trained, beside)
    folder = workdir / "checkpoints" / "6"
    for path in (folder / "default" / "d").iterdir():
        content = path.read_bytes()
        if harm == "truncated":
            path.write_bytes(content[: len(content) // 2])
        elif harm == "of_garbage":
            path.write_bytes(b"x" * len(content))
    if harm == "without_its_arrays":
        shutil.rmtree(folder / "default")
    text = line(call("sample", "--step", "6", workdir=workdir))
    assert f"{folder} cannot be read" in text and "delete that folder" in text
    result = call("sample", "--seeds", "0", workdir=workdir)
    assert (result.status, result.err) == (0, "")
    assert f"{folder} cannot be read" in result.out and folder.is_dir()
    assert (workdir / "samples" / "step_3" / "samples_0-0.npz").is_file()
    result = call("train", workdir=workdir)
    assert (result.status, result.err) == (0, "")
    assert f"{folder} cannot be read" in result.out and "from step 3 to 6" in result.out
    assert names(workdir / "damaged") == ["6"] and names(workdir / "checkpoints") == ["3", "6"]


def test_half_written_checkpoint(call, trained, beside):
    workdir = shutil.copytree(trained, beside)
    folder = workdir / "checkpoints"
    (folder / "6").rename(folder / "6.orbax-checkpoint-tmp-1700000000000000")
    result = call("train", workdir=workdir)
    assert result.status == 0, result.err
    assert "from step 3 to 6" in result.out
    a, b = (read_metrics(w)[-1]["training_loss"] for w in (workdir, trained))
    assert a == b


def test_snapshot_pictures(call, beside):
    result = call("train", workdir=beside, training__snapshot_sampling=True)
    assert result.status == 0, result.err
    for step in (3, 6):
        picture = beside / "samples" / f"step_{step}" / "sample.png"
        assert picture.read_bytes().startswith(b"\x89PNG")
    rows = read_metrics(beside)
    assert [row["step"] for row in rows if "sample_nfe" in row] == [3, 6]


def test_progress_bar(call, beside):
    """It goes to standard error, and can be switched off."""
    result = call("train", workdir=beside, training__progress=True)
    assert result.status == 0 and "6/6" in result.err and "loss" in result.err


def test_fusions_that_are_wrong_are_off(program):
    """See test_platform.py; flags that the caller has set stay, and come after."""
    script = "import os; print(os.environ['XLA_FLAGS'])"
    flags_of_xla = program.script(script, devices=2).out
    assert "--xla_cpu_experimental_ynn_fusion_type= " in flags_of_xla
    assert "device_count=2" in flags_of_xla.split("fusion_type=")[1]
