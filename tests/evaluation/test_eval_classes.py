"""Sampling of classes with exact scores: each sample has the law of its class with every method."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closed_form import Gaussian
from known_data import LEVELS, PARAMS, SHAPE, config, exact

from builders.experiment import build
from builders.guidance import build_classes, check_condition
from configs.digits import digits_classifier
from evaluation.tasks.sampling import draw, make_trajectory, run_sampling
from scorefield import Run

MEANS, STD = (-0.5, 0.3, 0.0), 0.2  # the means of class 0, of class 1, and without a class
METHODS = {
    "pc": {"sampling__predictor": "heun", "sampling__steps": 30, "sampling__eps": 0.01},
    "ode": {"sampling__method": "ode", "sampling__rtol": 1e-4, "sampling__atol": 1e-4},
}


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "two.npz"
    raw = np.random.default_rng(0).integers(0, LEVELS, (40, *SHAPE)).astype(np.uint8)
    y = np.arange(40) % 2
    np.savez(path, x=raw, y=y, x_test=raw, y_test=y, levels=LEVELS)
    return path


def conditional(file, knows=True, **changes):
    """An experiment whose network has the exact score of each class."""
    options = {"guidance__method": "classifier_free", "sampling__batch_size": 200, **changes}
    built = build(config(file, model__num_classes=2, **options))

    def predict(params):
        def run(x, t, label=None):
            label_ = jnp.full(len(x), 2) if label is None or not knows else label
            every = [Gaussian.scalar(m, STD, x[0].size).predict(built.path)(x, t) for m in MEANS]
            return jax.tree.map(lambda *v: jnp.stack(v)[label_, jnp.arange(len(x))], *every)

        return run

    return dataclasses.replace(built, predict=predict)


def with_classes(experiment):
    return dataclasses.replace(experiment, classes=build_classes(experiment))


@pytest.mark.parametrize("method", METHODS)
def test_each_sample_is_of_its_class(labelled, method):
    experiment = with_classes(conditional(labelled, **METHODS[method]))
    result = draw(experiment, PARAMS, range(400), seed=0)
    assert not np.any(result.failed)
    for label in (0, 1):
        x = np.asarray(result.x[label::2], np.float64)
        assert x.mean() == pytest.approx(MEANS[label], abs=4 * STD / x.size**0.5 + 0.003)
        assert x.std() == pytest.approx(STD, rel=0.06)


def test_a_sample_is_the_same_alone_and_among_others(labelled):
    """A sample does not depend on the other samples of its batch or their classes."""
    options = {**METHODS["pc"], "sampling__batch_size": 4}
    experiment = with_classes(conditional(labelled, **options))
    together, alone = (draw(experiment, PARAMS, i, seed=0).x for i in (range(10), [7]))
    np.testing.assert_allclose(alone[0], together[7], atol=2e-5)


def test_parameters_of_a_guide_reach_every_picture(labelled, tmp_path):
    """The guide's parameters reach samples and trajectories."""
    experiment = with_classes(conditional(labelled, **METHODS["pc"]))
    plain, drawn = experiment.classes, []

    def predict(params, own):
        drawn.append(own["shift"])
        return plain.predict(params, None)

    guided = plain._replace(own={"shift": jnp.ones(())}, predict=predict)
    experiment = dataclasses.replace(experiment, classes=guided)
    draw(experiment, PARAMS, range(3), seed=0)
    make_trajectory(experiment, rows=2)(PARAMS, tmp_path / "t.png")
    # Each of the two programs traces the parameter, so it is no constant of the program.
    assert len(drawn) == 2 and all(isinstance(v, jax.core.Tracer) for v in drawn)


def test_log_p_of_a_run_is_given_the_class(labelled, tmp_path):
    """With classes `N(m_k, STD^2)` the result is the log density of each x under its own class."""
    options = {"likelihood__eps": 1e-4, "likelihood__divergence": "exact"}
    run = Run(tmp_path, conditional(labelled, **options), 0, PARAMS)
    label, dims = np.array([0, 1, 1]), int(np.prod(SHAPE))
    x = np.random.default_rng(0).normal(0.0, 0.3, (3, *SHAPE)).astype(np.float32)
    found = run.log_likelihood(x, cond=label)
    z = (x.reshape(3, -1) - np.asarray(MEANS)[label, None]) / STD
    expected = -0.5 * np.sum(z**2, axis=1) - dims * np.log(STD * np.sqrt(2.0 * np.pi))
    np.testing.assert_allclose(found.logp, expected, rtol=2e-3, atol=0.05)


def test_codes_of_one_class_decoded_under_the_other(labelled, tmp_path):
    """Classes are Gaussians of equal spread, so decoding moves x by the distance of the means."""
    run = Run(tmp_path, conditional(labelled, likelihood__eps=1e-4), 0, PARAMS)
    x, label = np.full((3, *SHAPE), 0.1, np.float32), np.array([0, 1, 0])
    x += np.linspace(-0.2, 0.2, x.size, dtype=np.float32).reshape(x.shape)
    codes = run.encode(x, cond=label).z
    np.testing.assert_allclose(run.decode(codes, cond=label).x, x, atol=2e-3)
    moved = np.asarray(MEANS)[1 - label] - np.asarray(MEANS)[label]
    expected = x + moved.reshape(3, *[1] * len(SHAPE))
    np.testing.assert_allclose(run.decode(codes, cond=1 - label).x, expected, atol=2e-2)


def test_one_class_for_all(labelled, tmp_path):
    experiment = with_classes(conditional(labelled, guidance__label=0, **METHODS["pc"]))
    written = run_sampling(experiment, PARAMS, tmp_path, 8, range(3, 63))
    file = np.load(tmp_path / "samples" / "step_8" / "samples_3-62.npz")
    assert written["samples"] == 60 and (file["labels"] == 0).all()
    level = (MEANS[0] + 1.0) / 2.0 * (LEVELS - 1)
    assert file["arr_0"].mean() == pytest.approx(level, abs=1.5)


def test_strength_moves_beyond(labelled):
    """With equal spreads the strength w moves the mean to `free + w (class - free)`. Here w = 2."""
    experiment = with_classes(conditional(labelled, guidance__scale=2.0, **METHODS["pc"]))
    x = np.asarray(draw(experiment, PARAMS, range(200), seed=0).x, np.float64)
    assert x[::2].mean() == pytest.approx(2 * MEANS[0], abs=0.01)
    assert x[1::2].mean() == pytest.approx(2 * MEANS[1], abs=0.01)


def test_a_condition_that_is_ignored_is_refused(labelled):
    check_condition(with_classes(conditional(labelled)), PARAMS)
    check_condition(conditional(labelled), PARAMS)  # no guidance, so no condition to ignore
    with pytest.raises(ValueError, match="class 0 and class 1 give the same answer"):
        check_condition(with_classes(conditional(labelled, knows=False)), PARAMS)


@pytest.mark.parametrize(
    "changes, sentence",
    [
        ({"guidance__label": 2}, "guidance.label is 2 and there are 2 classes; give 0 to 1"),
        ({"guidance__rescale": 2.0}, r"rescale is 2.0; it must lie in \[0, 1\]"),
        ({"guidance__interval": (3.0, 1.0)}, r"interval is \(3.0, 1.0\)"),
        ({"guidance__method": "classifier"}, "guidance.classifier is empty; train"),
        (
            {"guidance__method": "classifier", "guidance__classifier": "/nowhere"},
            "guidance.classifier is /nowhere, without a config.json",
        ),
    ],
)
def test_bad_options(labelled, changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        build_classes(conditional(labelled, **changes))


def test_a_network_without_classes(file):
    with pytest.raises(ValueError, match="the network knows no classes"):
        build_classes(exact(file, guidance__method="classifier_free"))
    assert build_classes(exact(file)) is None


@pytest.mark.parametrize(
    "classes, sentence",
    [
        (1, r"num_classes is 1, and .* has labels 0 to 1 in train; .* set model.num_classes=2"),
        (None, r"num_classes is 2, and npz/gauss has no labels in train"),
    ],
)
def test_labels_must_be_there(labelled, file, classes, sentence):
    with pytest.raises(ValueError, match=sentence):
        build(config(labelled if classes else file, model__num_classes=classes or 2))


def test_what_a_classifier_cannot():
    section = digits_classifier("vp")
    section.training.snapshot_sampling = True
    with pytest.raises(ValueError, match="classifies, and draws no samples"):
        build(section)
    section.training.snapshot_sampling, section.loss.name = False, "denoising"
    with pytest.raises(ValueError, match=r"'denoising', which trains ncsnpp.* and no other"):
        build(section)
    built = build(digits_classifier("ve"))
    with pytest.raises(ValueError, match="a classifier, which has no score"):
        built.predict(PARAMS)
