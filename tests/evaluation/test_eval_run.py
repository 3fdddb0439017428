"""`--mode eval` and `fid_stats`: the report, its page, and refused inputs."""

import base64
import dataclasses
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from known_data import LEVELS, N_TEST, N_TRAIN, PARAMS, SHAPE, Affine, exact, vectors

from data import Scaler
from evaluation.metrics.compare import distances
from evaluation.report.images import of_array, of_source, to_levels
from evaluation.report.pictures import loss_curve
from evaluation.spaces.features import pixels
from evaluation.tasks.evaluate import evaluate
from evaluation.tasks.fid_stats import write_fid_stats
from evaluation.tasks.sampling import draw, run_sampling, stored_samples
from samplers import SampleResult

# The report.

METRICS = [{"step": s, "training_loss": 1.0 / s, "grad_norm": 1.0} for s in range(1, 9)]
METRICS[3] |= {"eval_loss": 0.5}


@pytest.fixture(scope="module")
def report(file, tmp_path_factory):
    """Run a whole evaluation; return its folder, its report and its experiment."""
    folder = tmp_path_factory.mktemp("report")
    tight = {"likelihood__adams__steps": 64}
    experiment = exact(file, eval__mixture=True, eval__features=("pixels",), seed=5, **tight)
    experiment = dataclasses.replace(experiment, model=Affine())
    evaluate(experiment, PARAMS, folder, 8, METRICS, 12.5)
    return folder, json.loads((folder / "report.json").read_text()), experiment


def test_report_has_its_keys(report):
    folder, found, _ = report
    assert {"mean", "stderr", "mixture", "offset", "n"} <= found["bits_per_dim"].keys()
    assert {"samples_test", "train_test", "mixture_test"} <= found["frechet"].keys()
    assert found["seconds"].keys() == {"train", "sample", "eval"}
    assert found["nfe"].keys() == {"sampling", "likelihood"}
    assert found["seconds"]["train"] == 12.5
    assert min(found["seconds"]["sample"], found["seconds"]["eval"]) > 0
    # The predictor makes three steps, and the denoising one more evaluation.
    assert found["nfe"]["sampling"] == 4
    assert found["step"] == 8 and found["seed"] == 5
    assert found["bits_per_dim"]["n"] == N_TEST == found["data"]["test"]
    # The offset is log2(64) - 1, because the scaled data span [-1, 1].
    assert found["bits_per_dim"]["offset"] == pytest.approx(5.0)
    assert found == json.loads((folder / "report_8.json").read_text())
    assert {p.name for p in folder.iterdir()} == {
        *("report.json", "report_8.json", "report.html", "samples.npz"),
        *("samples.png", "data.png", "trajectory.png"),
        *("bits_8_test", "bits_8_test.csv", "samples_8"),
    }


def test_report_has_the_values_of_its_parts(report, bits):
    folder, found, experiment = report
    for name in ("mean", "stderr"):
        assert found["bits_per_dim"][name] == pytest.approx(getattr(bits[1], name), rel=1e-6)
    assert found["nfe"]["likelihood"] == bits[1].nfe
    assert found["parameters"] == 2
    # The mixture is a good model of these data. The exact model is not worse within its error.
    gap = found["bits_per_dim"]["mean"] - found["bits_per_dim"]["mixture"]
    assert gap < 3 * found["bits_per_dim"]["stderr"]
    u = np.load(folder / "samples.npz")["arr_0"]
    assert u.shape == (40, *SHAPE) and u.dtype == np.uint8
    test = of_source(experiment.test)
    np.testing.assert_allclose(
        test.first(N_TEST), experiment.test.fetch(np.arange(N_TEST)) / (LEVELS - 1)
    )
    images = {"samples": of_array(u / (LEVELS - 1)), "train": of_source(experiment.train, 40)}
    expected = distances(pixels(), images, test)
    for metric in ("frechet", "kid", "mmd"):
        for name in ("samples_test", "train_test"):
            value = expected[metric][name]
            assert found["spaces"][0][metric][name] == pytest.approx(value, rel=1e-9)
    assert found["frechet"]["samples_test"] == found["spaces"][0]["frechet"]["samples_test"]


def test_page_needs_nothing_beside_it(report):
    folder, found, _ = report
    html = (folder / "report.html").read_text()
    # A browser does not fetch the names of XML namespaces, so they are removed first.
    rest = re.sub(r'xmlns(:\w+)?="[^"]*"', "", html)
    sources = re.findall(r'(?:src|href)\s*=\s*"([^"]*)"', rest)
    assert sources and all(source.startswith("data:") for source in sources)
    assert not re.search(r"url\(\s*['\"]?(?!data:)", rest) and "@import" not in rest
    assert "http" not in re.sub(r"base64,[A-Za-z0-9+/=]*", "", rest)
    for name in ("samples", "data", "trajectory"):
        png = base64.b64encode((folder / f"{name}.png").read_bytes()).decode()
        assert png in html, name
    # The page shows two digits of the standard error. It is between 0.01 and 0.1: three decimals.
    assert f"{found['bits_per_dim']['mean']:.3f}" in html


def test_page_shows_the_loss_of_training(report):
    """The page shows the training and the evaluation loss; the rows have `training_loss`."""
    html = (report[0] / "report.html").read_text()
    curves = [base64.b64decode(b) for b in re.findall(r"image/svg\+xml;base64,([^\"]*)", html)]
    assert len(curves) == 1
    # The figure has at least one line per curve.
    assert curves[0].count(b'id="line2d_') >= 2
    both = [{**row, "loss": row["training_loss"]} for row in METRICS]
    assert curves[0] == loss_curve(both)
    assert curves[0] != loss_curve([row for row in METRICS if "eval_loss" in row])


def test_page_shows_no_picture_of_an_earlier_evaluation(file, tmp_path):
    for name in ("samples", "data", "trajectory"):
        (tmp_path / f"{name}.png").write_bytes(b"\x89PNG of another checkpoint")
    experiment = exact(file, eval__enable_sampling=False, eval__enable_bpd=False)
    experiment = dataclasses.replace(experiment, model=Affine())
    report = evaluate(experiment, PARAMS, tmp_path, 3, [], 1.0)
    assert "eval_loss" in report and "frechet" not in report
    assert "<img" not in (tmp_path / "report.html").read_text()


def test_failed_solves_are_counted_and_left_out(file, tmp_path):
    """Most of 40 samples fail. The rest are fewer than the ten blocks of the error bars.

    Samples that are not finite count as failed, even if the method does not report a failure.
    """
    experiment = exact(file, eval__enable_bpd=False, eval__enable_loss=False)
    good = experiment.sample

    def sample(key, predict, x, **kwargs):
        result = good(key, predict, x, **kwargs)
        # The noise of a sample decides whether it fails. About five of six samples do.
        failed = x[:, 0, 0, 0] < 1.0
        x = jnp.where(failed[:, None, None, None], jnp.nan, result.x)
        return result._replace(x=x, nfe=jnp.broadcast_to(result.nfe, failed.shape))

    experiment = dataclasses.replace(experiment, sample=sample)
    expected = draw(experiment, PARAMS, range(40), experiment.config.eval.seed)
    left = int(np.sum(~expected.failed))
    assert 2 < left < 10
    report = evaluate(experiment, PARAMS, tmp_path, 3, [], 1.0)
    told = {"n": 40, "seeds": [0, 0, 39], "failed": 40 - left}
    assert told.items() <= report["samples"].items()
    assert np.load(tmp_path / "samples.npz")["arr_0"].shape == (left, *SHAPE)
    assert np.isfinite([v for k, v in report["frechet"].items() if k != "space"]).all()
    said = run_sampling(experiment, PARAMS, tmp_path, 3, range(40))
    assert said["failed"] == 40 - left
    arrays = np.load(tmp_path / "samples" / "step_3" / "samples_0-39.npz")
    np.testing.assert_array_equal(arrays["seeds"], np.flatnonzero(~expected.failed))
    assert len(arrays["arr_0"]) == left
    nothing = dataclasses.replace(
        experiment, sample=lambda key, predict, x, **kwargs: SampleResult(jnp.inf * x, None, 1)
    )
    for run in (
        lambda folder: run_sampling(nothing, PARAMS, folder, 3, range(40)),
        lambda folder: stored_samples(nothing, PARAMS, folder, 3, 40),
    ):
        with pytest.raises(ValueError, match=r"^None of 40 samples by .* is finite"):
            run(tmp_path / "none")


def test_what_is_not_finite_has_no_level(file):
    experiment = exact(file)
    x = np.array([[np.nan, -1.0], [np.inf, 1.0]], np.float32)
    levels, unit = to_levels(experiment.scaler, x)
    np.testing.assert_array_equal(levels[:, 1], [0, LEVELS - 1])
    np.testing.assert_allclose(unit, [[np.nan, 0.0], [np.nan, 1.0]])


def test_sampling_of_which_nothing_is_left(file, tmp_path):
    experiment = exact(file, sampling__method="ode", sampling__max_steps=3)
    with pytest.raises(ValueError, match=r"None of 4 solves.*max_steps = 3"):
        run_sampling(experiment, PARAMS, tmp_path, 3, range(4))
    assert not list(tmp_path.iterdir())


def test_a_classifier_needs_labels(file):
    with pytest.raises(ValueError, match="label"):
        exact(file, eval__features=("classifier",), eval__classifier="")


def test_a_classifier_of_other_images(file, tmp_path):
    """A classifier of images of another size is refused before sampling."""
    experiment = exact(file, eval__features=("classifier",), eval__classifier="digits")
    with pytest.raises(ValueError, match=r"images have 6 values each, .* trained on 64"):
        evaluate(experiment, PARAMS, tmp_path, 3, [], 1.0)
    assert not list(tmp_path.iterdir())


def test_fid_stats(file, tmp_path):
    experiment = exact(file)
    (path,) = write_fid_stats(experiment, tmp_path)
    assert path == tmp_path / "stats" / "npz-gauss_pixels.npz"
    stats = dict(np.load(path))
    x = experiment.train.fetch(np.arange(N_TRAIN)).reshape(N_TRAIN, -1) / (LEVELS - 1)
    np.testing.assert_allclose(stats["mu"], x.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(stats["sigma"], np.cov(x.T), rtol=1e-10, atol=1e-15)
    assert stats["n"] == N_TRAIN and stats["space"] == "pixels"
    assert stats["fingerprint"] == experiment.train.fingerprint


def test_fid_stats_of_vectors(tmp_path):
    """Continuous data have no known range, so they are refused, and no file is written."""
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        write_fid_stats(vectors(tmp_path), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_levels_and_back(file):
    """Samples are judged after quantisation to the levels of the data."""
    experiment = exact(file, data__uniform_dequantization=True)
    assert experiment.scaler == Scaler(LEVELS, True, True)
    u = experiment.test.fetch(np.arange(N_TEST))
    keys = jax.random.split(jax.random.key(0), N_TEST)
    levels, unit = to_levels(experiment.scaler, experiment.scaler.to_model(keys, jnp.asarray(u)))
    np.testing.assert_array_equal(levels, u)
    np.testing.assert_allclose(unit, of_source(experiment.test).first(N_TEST), rtol=1e-12)
