"""`tools.trajectories`: the figures and numbers of a run, with and without a checkpoint."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from program import ROOT
from tiny import tiny

from builders.experiment import build
from evaluation.report.trajectory_figures import DRAWINGS
from tools import trajectories

FLAGS = ("--starts=6", "--steps=8", "--eps=0.01", "--limit=200", "--sample=100")
CONFIG = f"--config={ROOT / 'configs' / 'digits_vp.py'}"


def run(out, *flags):
    trajectories.main([*flags, f"--out={out}", *FLAGS])
    return json.loads((out / "trajectories.json").read_text())


def draw_only(monkeypatch, *names):
    few = {name: DRAWINGS[name] for name in names}
    monkeypatch.setattr("evaluation.report.trajectory_figures.DRAWINGS", few)


def test_of_the_optimal_denoiser(tmp_path, capsys, monkeypatch):
    """The optimal denoiser needs no checkpoint. Its runs end on the training set, and no step
    lowers the density."""
    draw_only(monkeypatch, "gain", "score_deviation")
    numbers = run(tmp_path / "a", CONFIG, "--network=empirical")
    assert numbers["falls"] == {"of": 48, "step": 0, "denoised": 0}
    assert numbers["nearest"]["denoised_end"] < 1e-4
    assert numbers["nodes"] == 9 and numbers["runs"] == 6
    assert len(numbers["energy_distance"]["state"]) == 9
    assert numbers["energy_distance"]["state"][0] > 100.0
    drawn = {path.stem for path in (tmp_path / "a").glob("*.svg")}
    assert drawn == {"gain"}
    assert "0 of 48 steps lower" in capsys.readouterr().out


def test_of_a_trained_network(tmp_path, monkeypatch):
    """The optimal denoiser runs from the same starts as the trained network, and the paths part."""
    config = tmp_path / "config.py"
    config.write_text("from tiny import tiny\n\n\ndef get_config():\n    return tiny('vp')\n")
    asked = []

    def restore(experiment, workdir, step):
        asked.append((workdir, step))
        return 7, jax.jit(experiment.init_params)(jax.random.key(0))

    monkeypatch.setattr(trajectories, "restore_ema", restore)
    draw_only(monkeypatch, "score_deviation")
    flags = (f"--config={config}", f"--workdir={tmp_path}", "--step=7", "--method=heun")
    numbers = run(tmp_path / "out", *flags)
    apart = numbers["score_deviation"]
    assert apart["paths"][0] == 0.0 and np.all(np.isfinite(apart["denoiser"]))
    assert apart["denoiser"][-1] > 1.0 and numbers["nearest"]["denoised_end"] > 1.0
    assert (tmp_path / "out" / "score_deviation.svg").exists() and asked == [(tmp_path, 7)]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--network=gausian"], "'gausian'"),
        (["--network=trained"], "--workdir is not given"),
        (["--network=trained", "--workdir=nowhere"], "no checkpoint in"),
        (["--network=empirical", "--method=hun"], "'hun'"),
        (["--network=empirical", "--grid=uniforn"], "'uniforn'"),
        (["--network=empirical", "--eps=2"], "between 0 and t1"),
    ],
)
def test_refusals(tmp_path, flags, message):
    with pytest.raises(SystemExit, match=message):
        trajectories.main([CONFIG, f"--out={tmp_path}", *flags])


def test_the_data_are_those_that_the_network_sees():
    """The data are the middles of the dequantised levels. At large noise the Gaussian denoiser
    returns their mean."""
    experiment = build(tiny("vp"))
    data = trajectories.scaled_data(experiment)
    raw = experiment.train.fetch(np.arange(7))
    assert len(data) == 1500 and len(trajectories.scaled_data(experiment, 7)) == 7
    np.testing.assert_allclose(data[:7], 2.0 * (raw + 0.5) / 17 - 1.0, atol=1e-6)
    make, arguments = trajectories.network(experiment, "gaussian", data, None, None)
    x0 = jax.jit(make(arguments))(jnp.zeros((1, 8, 8, 1)), jnp.asarray(1.0)).x0
    np.testing.assert_allclose(x0[0], data.mean(0), atol=1e-3)
