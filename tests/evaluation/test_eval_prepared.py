"""Parts that do not depend on the checkpoint are made once; missing files are reported first."""

import dataclasses
from contextlib import contextmanager
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from known_data import LEVELS, N_TEST, N_TRAIN, PARAMS, Affine, affine, exact

from evaluation.metrics import compare
from evaluation.metrics.frechet import Moments, frechet_distance
from evaluation.report.images import of_source
from evaluation.report.rows import figure_rows
from evaluation.spaces.features import pixels
from evaluation.tasks import prepared
from evaluation.tasks.evaluate import evaluate, make_evaluation, strict
from evaluation.tasks.sampling import sample_batch
from parallel.mesh import make_mesh
from training.run import periodic_actions

TWO = [{"w": jnp.asarray(w)} for w in ([0.3, -0.2], [0.4, 0.1])]


@contextmanager
def traced():
    """Record the events of tracing and compilation inside the `with` block."""
    seen = []
    listener = lambda name, secs, **kw: seen.append(name) if "/compile/" in name else None
    jax.monitoring.register_event_duration_secs_listener(listener)
    yield seen
    jax.monitoring.unregister_event_duration_listener(listener)


def calls_of(monkeypatch, module, name):
    calls, plain = [], getattr(module, name)
    monkeypatch.setattr(module, name, lambda *a, **k: calls.append(a) or plain(*a, **k))
    return calls


def test_a_second_checkpoint_compiles_nothing(file, tmp_path, monkeypatch):
    """A second checkpoint compiles nothing and gathers no features of real images, the reference
    or the mixture again."""
    gathered = calls_of(monkeypatch, compare, "gather")
    fitted = calls_of(monkeypatch, prepared, "fit_mixture")
    evaluation = make_evaluation(affine(file, eval__mixture=True))
    reports = []
    for step, params in enumerate((*TWO, TWO[0])):
        with traced() as seen:
            reports.append(evaluation(params, tmp_path, step, [], 0.0))
        # The first evaluation gathers the reference, the samples, training images and the mixture's
        # samples. Later ones gather only the samples.
        assert (len(gathered), len(fitted), bool(seen)) == (4 + step, 1, step == 0)
    first, second, third = map(strict, reports)
    for section in ("eval_loss", "bits_per_dim", "frechet"):
        assert first[section] != second[section]
    assert first["frechet"]["train_test"] == second["frechet"]["train_test"]
    # A repeated evaluation of the first checkpoint has no values of the second.
    for section in ("eval_loss", "frechet", "spaces", "samples", "nfe"):
        assert third[section] == first[section]
    assert third["bits_per_dim"]["mean"] == first["bits_per_dim"]["mean"]


def test_a_second_picture_of_training_compiles_nothing(file, tmp_path):
    """The second picture and the second held-out loss compile nothing. The held-out loss uses
    `eval.loss_examples` examples."""
    options = {"training__snapshot_sampling": True, "eval__loss_examples": 20}
    experiment = affine(file, training__eval_freq=1, training__snapshot_freq=1, **options)
    actions = [every.action for every in periodic_actions(experiment, tmp_path, make_mesh())]
    assert len(actions) == 2
    for step, params in enumerate(TWO):
        state = SimpleNamespace(ema_params=params, step=step)
        with traced() as seen:
            found = [action(state) for action in actions]
        assert (tmp_path / "samples" / f"step_{step}" / "sample.png").is_file()
    assert seen == []
    loss = prepared.make_eval_loss(experiment, most=20)(TWO[1])
    assert found[0]["eval_loss"] == loss != prepared.make_eval_loss(experiment)(TWO[1])


def test_distances_to_the_training_images(file, tmp_path):
    """Distances to the training images have names of their own and agree with moments of all
    features. The reference value of the report is the distance of the test images."""
    options = {"eval__reference": "train", "eval__metrics": ("frechet",)}
    experiment = exact(file, eval__enable_bpd=False, eval__enable_loss=False, **options)
    experiment = dataclasses.replace(experiment, model=Affine())
    report = evaluate(experiment, PARAMS, tmp_path, 1, [], 0.0)
    u = np.load(tmp_path / "samples.npz")["arr_0"] / (LEVELS - 1)
    sets = {"samples": u, "test": of_source(experiment.test, 40).first(40)}
    train = of_source(experiment.train).first(N_TRAIN)
    assert len(train) == N_TRAIN and experiment.test.size == N_TEST
    space, found = pixels(), report["spaces"][0]
    for name, x in sets.items():
        expected = frechet_distance(Moments.of(space(x)), Moments.of(space(train)))
        assert found["frechet"][f"{name}_train"] == pytest.approx(expected, rel=1e-6)
    assert not [key for key in found["frechet"] if key.endswith("_test")]
    assert found["reference"] == "train" and report["frechet"]["space"] == "pixels"
    (row,) = (row for row in figure_rows(report) if row.name.startswith("Fréchet"))
    assert row.name == "Fréchet distance to training images, pixels"
    assert row.value == found["frechet"]["samples_train"]
    assert (row.reference, row.reference_name) == (
        found["frechet"]["test_train"],
        "floor: test images",
    )


def test_absent_weights_are_said_before_anything_is_drawn(file, tmp_path, monkeypatch):
    monkeypatch.setenv("SCOREFIELD_WEIGHTS", str(tmp_path / "nowhere"))
    experiment = exact(file, eval__features=("inception",))
    sampled = calls_of(monkeypatch, prepared, "drawing")
    with pytest.raises(
        FileNotFoundError,
        match=r"no pt_inception.*eval\.weights.*or compare pixels.*features=\"\('pixels',\)\"\.$",
    ):
        evaluate(experiment, PARAMS, tmp_path / "run", 1, [], 0.0)
    assert not sampled and not (tmp_path / "run").exists()


def test_the_trajectory_shows_the_states_of_the_run(file, tmp_path, monkeypatch):
    """The figure has the states of nine of twenty steps, as in the whole trace, and the sample."""
    figures = []
    monkeypatch.setattr(
        "evaluation.tasks.sampling.trajectory_figure",
        lambda frames, times, path: figures.append(frames),
    )
    experiment = exact(file, sampling__steps=20)
    prepared.make_trajectory(experiment)(PARAMS, tmp_path / "unused")
    (frames,) = figures
    assert len(frames) == 10
    seed, numbers = experiment.config.eval.seed, jnp.arange(8)
    whole = jax.jit(
        lambda: sample_batch(experiment, PARAMS, seed, numbers, collect=lambda state: state.x)
    )()
    wanted = np.linspace(0, 19, 9).round().astype(int)
    expected = experiment.scaler.to_unit(np.asarray(whole.trace)[wanted])
    np.testing.assert_allclose(frames[:-1], expected, atol=1e-6)
    np.testing.assert_allclose(frames[-1], experiment.scaler.to_unit(whole.x), atol=1e-6)
