"""`open_run`: a run opened in Python gives the same results as the command line."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from tiny import tiny

from builders.experiment import build
from evaluation.tasks.sampling import draw
from likelihood import bits_per_dim
from operators import OPERATORS
from samplers.schedules.recipe import load_recipe
from scorefield import Run, open_run
from search import candidates
from tools import search_solver
from training.run import run_training

CHANGES = {"likelihood__divergence": "exact", "likelihood__steps": 8, "sampling__denoise": False}


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """Return the workdir of a run of two steps, with a checkpoint at each."""
    folder = tmp_path_factory.mktemp("runs") / "digits"
    config = tiny(training__n_iters=2, training__snapshot_freq=1, **CHANGES)
    run_training(build(config), folder)
    return folder


@pytest.fixture(scope="module")
def run(workdir):
    return open_run(workdir)


def test_what_it_is(run, workdir):
    assert run.step == 2 and open_run(str(workdir), step=1).step == 1
    assert (run.path.beta_max, run.test.size, run.experiment.shape) == (20.0, 297, (8, 8, 1))
    assert "digits, vp, mlp, step 2" in repr(run)


def test_samples_are_those_of_the_command_line(run):
    """A sample depends only on its number, with the run's own sampler and with another one."""
    expected = draw(run.experiment, run.params, range(12), seed=0)
    np.testing.assert_array_equal(run.sample(range(12)).x, expected.x)
    few = run.sample([7, 3], predictor="heun", steps=2)
    assert few.nfe == 4 and few.levels.shape == (2, 8, 8, 1) and not few.failed.any()
    np.testing.assert_array_equal(few.x[1], run.sample([3], predictor="heun", steps=2).x[0])


def test_the_solver_of_its_own_network_is_measured_once_and_kept(run, workdir, capsys, monkeypatch):
    """`own` gives the samples of the recipe in the workdir, measured at the first call alone."""
    monkeypatch.setattr(candidates, "METHODS", candidates.METHODS[:3])
    monkeypatch.setattr(candidates, "ORDERS", ())
    few = run.sample(range(4), method="own", steps=3, batch_size=32)
    assert few.nfe == 3 and not few.failed.any()
    _, about = load_recipe(workdir / "solvers" / "own_3.json")
    assert (about["nfe"], about["step"], about["starts"]) == (3, 2, 64)
    # The network's own flow, in 60 steps, is nearer than that of the usual solver of as many.
    usual = run.sample(range(4), predictor="dpm_multistep", grid="karras", steps=3, denoise=False)
    fine = run.sample(range(4), predictor="heun", grid="uniform_lam", steps=60, denoise=True)
    error = lambda found: np.sqrt(np.mean((found.x - fine.x) ** 2))
    assert error(few) < 0.7 * error(usual)
    assert "Comparing solvers of 3 evaluations on 64 trajectories" in capsys.readouterr().out
    again = open_run(workdir).sample(range(4), method="own", steps=3, batch_size=32)
    np.testing.assert_array_equal(again.x, few.x)
    assert "Comparing" not in capsys.readouterr().out
    # Another end is another question: the recipe is not the answer to it.
    open_run(workdir).sample([0], method="own", steps=3, batch_size=32, eps=0.01)
    assert "is replaced" in capsys.readouterr().out
    assert load_recipe(workdir / "solvers" / "own_3.json")[1]["eps"] == 0.01


def test_a_search_in_the_workdir_is_found_by_own(run, workdir, capsys, monkeypatch):
    """The command fits a solver to the run and keeps it where `own` finds it."""
    monkeypatch.setattr(candidates, "METHODS", candidates.METHODS[2:3])
    monkeypatch.setattr(candidates, "ORDERS", ())
    flags = ["--nfe", "4", "--starts", "8", "--refined", "1", "--late", "20"]
    search_solver.main(["--workdir", str(workdir), *flags])
    recipe, about = load_recipe(workdir / "solvers" / "own_4.json")
    assert about["error on fresh starts"] <= about["before the fit"]
    assert (recipe.predictor, about["candidates"], about["step"]) == ("weighted", 58, 2)
    found = run.sample(range(3), method="own", steps=4)
    assert "Comparing" not in capsys.readouterr().out and found.nfe == 4
    x = run.sample(range(3), method="own", steps=4, denoise=True).x
    np.testing.assert_array_equal(x, found.x)  # the recipe says how the run ends


def test_likelihood_and_bits_are_two_names_of_one_number(run):
    """bits/dim follow from log p of the same example with the same dequantisation noise.

    The divergence is exact, so there are no probes.
    """
    levels = run.test.fetch(np.arange(3))
    logp = run.log_likelihood(run.to_model(levels)).logp
    bits = run.bits_per_dim(levels).per_example
    volume = run.experiment.bits_scaler.log_volume()
    np.testing.assert_allclose(bits, bits_per_dim(jnp.asarray(logp), 64, volume), rtol=1e-5)


def test_codes_come_back(run):
    x = run.to_model(run.test.fetch(np.arange(2)))
    codes = run.encode(x, steps=40)
    back = run.decode(codes.z, steps=40)
    np.testing.assert_allclose(back.x, x, atol=2e-2)
    np.testing.assert_array_equal(run.to_levels(back.x), run.test.fetch(np.arange(2)))


def test_levels_come_back():
    """`to_model` dequantises levels also for a network that was trained without dequantisation."""
    run = Run(None, build(tiny(data__uniform_dequantization=False)), 0, None)
    levels = run.test.fetch(np.arange(50))
    np.testing.assert_array_equal(run.to_levels(run.to_model(levels)), levels)


def test_a_restoration_keeps_what_was_measured(run):
    keep = np.zeros((8, 8), int)
    keep[:4] = 1
    operator = OPERATORS["mask"]((8, 8, 1), keep)
    y = np.asarray(operator.forward(run.to_model(run.test.fetch(np.arange(2)))))
    found = run.restore(y, operator, "impute", samples=3, noise_std=0.0)
    assert found.x.shape == (2, 3, 8, 8, 1) and not found.failed.any()
    for k in range(3):
        np.testing.assert_allclose(operator.forward(found.x[:, k]), y, atol=1e-6)


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda run: run.sample([0], predicter="heun"), "did you mean 'predictor'"),
        (lambda run: run.sample([0], predictor="hoin"), "Unknown sampling.predictor 'hoin'"),
        (lambda run: run.sample([0], steps=0), "sampling.steps is 0; it must be positive"),
        (lambda run: run.sample([0], steps="many"), "sampling.steps is 'many'"),
        (lambda run: run.encode(np.zeros((2, 64))), r"shape \(2, 64\); this run takes"),
        (lambda run: run.restore(0, OPERATORS["greyscale"]((8, 8, 3)), "none"), "restores nothing"),
        (lambda run: run.report, "run with --mode eval first"),
    ],
)
def test_errors(run, call, words):
    with pytest.raises((ValueError, FileNotFoundError), match=words):
        call(run)


def test_a_workdir_of_an_earlier_version(run, workdir, tmp_path):
    """Keys and sections that came later have their defaults; what was trained is what is said."""
    (tmp_path / "checkpoints").symlink_to(workdir / "checkpoints")
    stored = json.loads((workdir / "config.json").read_text())
    del stored["edit"], stored["sampling"]["pc"]["teleport_sigma"], stored["mesh"]
    (tmp_path / "config.json").write_text(json.dumps(stored))
    old = open_run(tmp_path)
    assert old.experiment.config.to_dict() == run.experiment.config.to_dict()


def test_what_is_no_run(tmp_path):
    with pytest.raises(ValueError, match=r"There is no config\.json in .*nowhere"):
        open_run(tmp_path / "nowhere")
    for content in (b"[1, 2]", b"3", b"{", b'{"sde": 1}', b"[" * 100_000, b"\xff\xfe{}"):
        (tmp_path / "config.json").write_bytes(content)
        with pytest.raises(ValueError, match=r"config\.json is (damaged|not the config of a run)"):
            open_run(tmp_path)
