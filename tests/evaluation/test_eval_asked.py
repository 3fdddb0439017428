"""What an evaluation cannot make is told before anything is drawn; what it can, it makes."""

from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest
from known_data import affine, vectors

from configs.base import base
from evaluation.metrics.compare import compare_with
from evaluation.metrics.errors import mean_and_stderr
from evaluation.metrics.frechet import Moments, frechet_distance
from evaluation.metrics.mixture import suited
from evaluation.metrics.mmd import kid
from evaluation.metrics.table import METRICS
from evaluation.report.images import of_array
from evaluation.spaces.features import FeatureSpace, flatten_unit, pixels
from evaluation.tasks.asked import USUAL, too_few
from evaluation.tasks.evaluate import evaluate, make_evaluation
from parallel.mesh import make_mesh
from training.run import periodic_actions

PARAMS = {"w": jnp.zeros(2)}
LEVELS = 64


@pytest.mark.parametrize("name", METRICS)
def test_the_fewest_that_a_metric_takes(name):
    """With as many its values and errors are numbers; with one less, on either side, not."""
    first = lambda x: flatten_unit(x)[:, :1]
    probabilities = lambda x: np.hstack([first(x), 1.0 - first(x)])
    space = FeatureSpace("made", "made", flatten_unit, None, probabilities)
    rng = np.random.default_rng(0)
    samples, reference = rng.random((30, 3)), rng.random((30, 3))

    def numbers(n, m):
        try:
            comparison = compare_with(space, of_array(reference[:m]), (name,))
            values = comparison.measure(of_array(samples[:n]))
        except (ValueError, IndexError):
            return False
        return all(np.isfinite(v) for own in values.values() for v in own.values())

    kind = METRICS[name]
    with np.errstate(all="ignore"):
        assert numbers(kind.samples, kind.reference)
        assert not numbers(kind.samples - 1, 30) and not numbers(30, kind.reference - 1)


def data(folder, shape, n_test=30, n=40):
    rng = np.random.default_rng(1)
    arrays = {"x": (n, *shape), "x_test": (n_test, *shape)}
    made = {key: rng.integers(0, LEVELS, s).astype(np.uint8) for key, s in arrays.items()}
    np.savez(folder / "x.npz", **made, levels=LEVELS)
    return folder / "x.npz"


def refused(experiment, monkeypatch, folder):
    """The sentence, and that nothing was drawn or fitted before it was said."""
    never = lambda *a, **k: pytest.fail("begun")
    for name in ("drawing", "fit_mixture", "judges", "make_eval_loss"):
        monkeypatch.setattr(f"evaluation.tasks.prepared.{name}", never)
    with pytest.raises(ValueError) as error:
        evaluate(experiment, PARAMS, folder, 1, [], 0.0)
    text = str(error.value)
    assert "\n" not in text and text.endswith(".")
    return text


@pytest.mark.parametrize(
    ("n_test", "metrics", "words", "fit"),
    [
        (2, ("frechet", "kid"), "kid takes 3 or more of test, which has 2", "('frechet',)"),
        (1, ("frechet", "mmd"), "frechet takes 2 or more of test, which has 1, mmd takes 3", "()"),
        (5, ("density_coverage", "kid"), "density_coverage takes 6 or more of test", "('kid',)"),
        (3, ("precision_recall",), "precision_recall takes 4 or more of test", "()"),
    ],
)
def test_a_small_test_split(tmp_path, monkeypatch, n_test, metrics, words, fit):
    experiment = affine(data(tmp_path, (3, 2, 1), n_test), eval__metrics=metrics)
    text = refused(experiment, monkeypatch, tmp_path)
    assert words in text and f'--config.eval.metrics="{fit}"' in text


def test_the_floor_takes_as_many_as_samples(tmp_path, monkeypatch):
    """Distances to the training images, beside those of a small test split, and of a file."""
    options = {"eval__reference": "train", "eval__metrics": ("frechet", "inception_score")}
    file = data(tmp_path, (3, 2, 1), n_test=2)
    text = refused(affine(file, eval__statistics="s.npz", **options), monkeypatch, tmp_path)
    assert "frechet takes 3 or more of test, which has 2, eval.statistics takes 3" in text
    assert "--config.eval.metrics=\"('inception_score',)\" --config.eval.statistics=," in text
    experiment = affine(data(tmp_path, (3, 2, 1), n_test=19), eval__reference="train")
    experiment.config.eval.metrics = ("fid_infinity",)
    assert "20 or more of test, which has 19" in refused(experiment, monkeypatch, tmp_path)


def test_too_few_images_for_the_mixture(tmp_path, monkeypatch):
    """Full covariances of few values take one component; above 1024 values there are 50 or more."""
    with pytest.raises(ValueError, match=r"^4 training images of 6 values suit none"):
        suited(4, 6)
    assert [c.components for c in suited(5, 6)] == [1]
    assert [c.components for c in suited(62, 2000)] == [50]
    with pytest.raises(ValueError, match=r"^61 training images .* eval\.mixture=False\.$"):
        suited(61, 2000)
    file = data(tmp_path, (3, 2, 1), n=4)
    assert "4 training images" in refused(affine(file, eval__mixture=True), monkeypatch, tmp_path)


@pytest.mark.parametrize("shape", [(3, 2, 2), (2, 2, 5), (7,)])
def test_levels_of_any_shape_are_compared(tmp_path, shape):
    """Two and five channels, and vectors: by name, against NumPy; there are no pictures."""
    options = {"eval__enable_bpd": False, "eval__enable_loss": False}
    experiment = affine(data(tmp_path, shape), eval__metrics=("frechet", "kid"), **options)
    report = evaluate(experiment, PARAMS, tmp_path, 1, [], 0.0)
    x = np.load(tmp_path / "samples.npz")["arr_0"]
    assert x.shape == (40, *shape) and not list(tmp_path.glob("*.png"))
    space, real = pixels(), np.load(tmp_path / "x.npz")["x_test"] / (LEVELS - 1.0)
    features = space(x / (LEVELS - 1.0)), space(real)
    expected = frechet_distance(*map(Moments.of, features))
    found = report["spaces"][0]
    assert found["frechet"]["samples_test"] == pytest.approx(expected, rel=1e-6)
    assert found["kid"]["samples_test"] == pytest.approx(kid(*features).value, rel=1e-6, abs=1e-9)
    assert report["frechet"]["samples_test"] == found["frechet"]["samples_test"]


def test_continuous_data(tmp_path, monkeypatch, capsys):
    """What is usual is left out, and told; what was asked for by name is refused."""
    quiet = {"eval__enable_bpd": False, "eval__num_samples": 21}
    experiment = vectors(tmp_path, eval__mixture=True, eval__bounds=("elbo",), **quiet)
    make_evaluation(experiment)
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 3 and said[0].startswith("eval.bounds are ('elbo',)")
    assert "no mixture is fitted" in said[1] and "no distance is taken" in said[2]
    for key, value in (
        ("features", ("classifier",)),
        ("metrics", ("frechet", "fid_infinity")),
        ("statistics", "s.npz"),
    ):
        asked = vectors(tmp_path, **{f"eval__{key}": value}, eval__classifier="digits", **quiet)
        text = refused(asked, monkeypatch, tmp_path)
        assert f"eval.{key} is " in text and "continuous" in text


def test_pictures_of_training(tmp_path, capsys):
    """Asked for of five channels: told before the first step."""
    file = data(tmp_path, (2, 2, 5))
    for asked, lines in ((True, 1), (False, 0)):
        experiment = affine(file, training__snapshot_sampling=asked)
        assert len(periodic_actions(experiment, tmp_path, make_mesh())) == 1
        assert capsys.readouterr().out.count("no pictures are drawn") == lines


@pytest.mark.filterwarnings("error")
def test_the_error_of_one_value():
    mean, stderr = mean_and_stderr(np.array([3.0]))
    assert mean == 3.0 and np.isnan(stderr)
    assert mean_and_stderr(np.array([1.0, 3.0])) == (2.0, pytest.approx(1.0))


def test_what_is_usual_is_the_default():
    section = base("vp", "mlp", "npz").eval
    assert {key: section[key] for key in USUAL} == USUAL


def test_samples_that_are_left():
    section = SimpleNamespace(
        num_samples=40, metrics=("frechet", "density_coverage"), statistics=""
    )
    assert too_few(section, 7) is None
    assert too_few(section, 6) == (
        "34 of 40 samples failed, and eval.metrics take 7 or more: no distance is taken of the 6 "
        "that are left."
    )
