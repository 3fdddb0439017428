"""`--mode eval`, `sample` and `fid_stats` on data whose law, and so whose score, is known.

The levels of each pixel are those of a wide Gaussian, rounded down: dequantised they are that
Gaussian again but for terms far below what is measured here, so the exact score of a Gaussian is
the perfect model, and its bits/dim are the entropy of the levels.
"""

import base64
import dataclasses
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closed_form import Gaussian
from jax.experimental.compilation_cache import compilation_cache
from scipy.stats import norm
from tiny import tiny

from build import build, build_loss
from configs.base import base
from data import Scaler
from evaluation.bits import data_bits
from evaluation.compare import distances, unit_images
from evaluation.features import pixels
from evaluation.fid_stats import write_fid_stats
from evaluation.loss import make_eval_loss
from evaluation.pictures import loss_curve
from evaluation.run import evaluate
from evaluation.sampling import draw, run_sampling, to_levels
from sde_lib.prediction import parametrize

LEVELS, MEAN, STD = 64, 30.0, 6.0
SHAPE = (3, 2, 1)
N_TRAIN, N_TEST = 120, 75


def levels(rng, n):
    return np.floor(rng.normal(MEAN, STD, (n, *SHAPE))).clip(0, LEVELS - 1).astype(np.uint8)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    rng = np.random.default_rng(3)
    path = tmp_path_factory.mktemp("data") / "gauss.npz"
    arrays = {"x": levels(rng, N_TRAIN), "x_test": levels(rng, N_TEST), "levels": LEVELS}
    np.savez(path, **arrays)
    return path


def config(file, law="vp", **changes):
    config = base(law, "mlp", "npz")
    tiny_digits = tiny(law)
    for section in ("model", "prediction", "sampling", "likelihood", "eval"):
        config[section] = tiny_digits[section]
    config.data.update(path=str(file), centered=True, random_flip=False)
    config.update_from_flattened_dict(
        {key.replace("__", "."): value for key, value in changes.items()}
    )
    return config


def exact(file, law="vp", **changes):
    """An experiment whose network is the exact one; its parameters are not used."""
    experiment = build(config(file, law, **changes))
    scale = 2.0 / LEVELS
    data = Gaussian.scalar(MEAN * scale - 1.0, STD * scale, dims=int(np.prod(SHAPE)))
    return dataclasses.replace(experiment, predict=lambda params: data.predict(experiment.path))


@pytest.fixture(scope="module", autouse=True)
def compiled_once(tmp_path_factory):
    """Every call of `draw` compiles its program anew; here, as in `main.py`, it finds it stored."""
    settings = {
        "jax_compilation_cache_dir": str(tmp_path_factory.mktemp("programs")),
        "jax_persistent_cache_min_compile_time_secs": 0.1,
    }
    before = {name: getattr(jax.config, name) for name in settings}
    for name, value in settings.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


PARAMS = {"w": jnp.zeros(2)}


class Affine:
    """A network of two parameters, `w0 x + w1`: its loss depends on them, and it compiles fast."""

    def apply(self, variables, x, cond, train=False, rngs=None):
        w = variables["params"]["w"]
        return w[0] * x + w[1]


def affine(file, **changes):
    experiment = build(config(file, **changes))
    apply = lambda params: lambda x, c: Affine().apply({"params": params}, x, c)  # noqa: E731
    kind = experiment.config.prediction.to_dict()
    predict = lambda params: parametrize(path=experiment.path, apply=apply(params), **kind)  # noqa: E731
    return dataclasses.replace(experiment, model=Affine(), predict=predict)


# The loss.


def test_loss_is_the_same_whenever_and_in_batches_of_any_size(file):
    values = []
    for batch_size in (20, 75, 1000, 20):
        experiment = affine(file, eval__batch_size=batch_size)
        values.append(make_eval_loss(experiment)({"w": jnp.asarray([0.3, -0.2])}))
    assert values[0] == values[3]
    np.testing.assert_allclose(values, values[0], rtol=1e-6)
    other = make_eval_loss(experiment)({"w": jnp.asarray([0.3, -0.1])})
    assert abs(other - values[0]) > 1e-3


@pytest.mark.parametrize(
    "changes",
    [
        {"prediction__kind": "eps", "loss__reduce_mean": False},
        {"loss__weighting": "likelihood", "loss__time_sampling": "importance"},
    ],
    ids=["eps_sum", "edm_weighted"],
)
def test_loss_is_that_of_training(file, changes):
    """The same expectation, over other draws: within the errors of both."""
    experiment = affine(file, **changes)
    params = {"w": jnp.asarray([0.3, -0.2])}
    loss = build_loss(experiment.config, experiment.path, Affine(), experiment.scaler)
    batch = {"image": jnp.asarray(experiment.test.fetch(np.arange(N_TEST)))}
    keys = jax.random.split(jax.random.key(1), 400)
    values = jax.jit(jax.vmap(lambda key: loss(params, None, key, batch)[0]))(keys)
    # The evaluation has 8 draws, and spread over time at that, where each of these has one.
    error = np.std(values) * np.sqrt(1 / 400 + 1 / 8)
    found = make_eval_loss(experiment)(params)
    assert found == pytest.approx(float(np.mean(values)), abs=3 * float(error))
    assert error < 0.1 * np.mean(values)


# Bits per dimension.


@pytest.fixture(scope="module")
def bits(file):
    """Of the exact model, in one batch."""
    experiment = exact(file, likelihood__rtol=1e-5, likelihood__atol=1e-5)
    return experiment, data_bits(experiment, PARAMS, experiment.test)


def code_lengths(source):
    """-log2 P(u) of each example in bits a dimension, and the entropy of P."""
    u = np.arange(LEVELS)
    p = norm.cdf(u + 1, MEAN, STD) - norm.cdf(u, MEAN, STD)
    each = -np.log2(p)[source.fetch(np.arange(source.size))]
    return each.reshape(source.size, -1).mean(axis=1), -np.sum(p * np.log2(p))


def test_bits_of_the_exact_model_are_the_entropy(bits):
    experiment, found = bits
    lengths, entropy = code_lengths(experiment.test)
    assert abs(found.mean - entropy) < 3 * found.stderr
    assert found.stderr == pytest.approx(lengths.std(ddof=1) / N_TEST**0.5, rel=0.1)
    # On the very examples only the noise is left that the dequantisation adds, of variance
    # (z / STD)^2 / 12 nats^2 a pixel at z standard deviations, whose square is 1 in the mean.
    noise = 1 / (STD * 12**0.5 * np.log(2)) / np.prod(SHAPE) ** 0.5
    difference = found.per_example - lengths
    assert abs(difference.mean()) < 4 * noise / N_TEST**0.5
    assert difference.std() == pytest.approx(noise, rel=0.35)
    assert found.failed == 0 and 20 < found.nfe < 500


def test_every_example_counts_once_whatever_the_batch(file, bits):
    whole = bits[1]
    assert whole.per_example.shape == (N_TEST,)
    assert len(np.unique(whole.per_example)) == N_TEST
    experiment = exact(file, eval__batch_size=20, likelihood__rtol=1e-5, likelihood__atol=1e-5)
    found = data_bits(experiment, PARAMS, experiment.test)
    # 4 batches, the last of them padded with copies of the first example.
    np.testing.assert_allclose(found.per_example, whole.per_example, atol=2e-5)
    assert found.mean == pytest.approx(whole.per_example.mean(), abs=1e-5)
    assert found.nfe == pytest.approx(whole.nfe, rel=0.02)


def test_passes_have_noise_of_their_own(file, bits):
    experiment = exact(file, eval__bpd_repeats=2, likelihood__rtol=1e-5, likelihood__atol=1e-5)
    found, first = data_bits(experiment, PARAMS, experiment.test), bits[1].per_example
    second = 2 * found.per_example - first
    assert (abs(second - first) > 1e-6).all()
    # Both passes scatter around the code lengths, independently of each other.
    lengths, _ = code_lengths(experiment.test)
    assert abs(np.corrcoef(first - lengths, second - lengths)[0, 1]) < 4 / N_TEST**0.5


def test_bits_need_levels(tmp_path):
    experiment = vectors(tmp_path)
    with pytest.raises(ValueError, match=r"not defined for continuous data.*enable_bpd=false\.$"):
        evaluate(experiment, PARAMS, tmp_path, 1, [], 0.0)
    with pytest.raises(ValueError, match="continuous"):
        data_bits(experiment, PARAMS, experiment.test)
    assert not list(tmp_path.glob("report*"))


def vectors(folder, **changes):
    np.savez(folder / "x.npz", x=np.random.default_rng(0).normal(3.0, 9.0, (50, 5)))
    return affine(folder / "x.npz", data__centered=False, **changes)


# Samples.


@pytest.mark.parametrize(
    "changes",
    [
        {"sampling__predictor": "ancestral", "sampling__corrector": "langevin"},
        {"sampling__method": "ode", "sampling__rtol": 1e-3, "sampling__atol": 1e-3},
    ],
    ids=["pc", "ode"],
)
def test_sample_i_is_the_same_alone_and_among_others(file, changes):
    """The last batch is padded, and what pads it is dropped."""
    four = exact(file, sampling__batch_size=4, sampling__eps=0.01, **changes)
    ten = exact(file, sampling__batch_size=10, sampling__eps=0.01, **changes)
    a = draw(four, PARAMS, range(11), seed=7)
    assert a.x.shape == (11, *SHAPE) and a.failed.shape == (11,) and not a.failed.any()
    assert len(np.unique(a.x)) == a.x.size
    b = draw(ten, PARAMS, [9, 3, 10], seed=7)
    np.testing.assert_allclose(b.x, a.x[[9, 3, 10]], atol=2e-5)


def test_another_seed_gives_other_samples(file):
    experiment = exact(file)
    a, b, c = (draw(experiment, PARAMS, range(4), seed=seed).x for seed in (7, 8, 7))
    assert (abs(a - b) > 1e-5).all()
    np.testing.assert_array_equal(a, c)


def test_samples_of_the_exact_model(file):
    """Their mean and spread are those of the data, each within four of its standard errors."""
    experiment = exact(file, sampling__steps=100, sampling__batch_size=500)
    x = draw(experiment, PARAMS, range(500), seed=0).x
    mean, std, n = MEAN * 2 / LEVELS - 1, STD * 2 / LEVELS, x.size
    assert x.mean() == pytest.approx(mean, abs=4 * std / n**0.5)
    assert x.std() == pytest.approx(std, abs=4 * std / (2 * n) ** 0.5 + 0.02 * std)


def test_sample_files(file, tmp_path):
    experiment = exact(file)
    said = run_sampling(experiment, PARAMS, tmp_path, 12, range(5, 16))
    folder = tmp_path / "samples" / "step_12"
    assert said == {"samples": 11, "nfe": 4.0, "failed": 0, "folder": str(folder)}
    assert sorted(p.name for p in folder.iterdir()) == ["sample.png", "samples_5-15.npz"]
    arrays = dict(np.load(folder / "samples_5-15.npz"))
    assert sorted(arrays) == ["arr_0", "seeds"]
    np.testing.assert_array_equal(arrays["seeds"], range(5, 16))
    assert arrays["arr_0"].dtype == np.uint8 and arrays["arr_0"].shape == (11, *SHAPE)
    x = draw(experiment, PARAMS, range(5, 16), experiment.config.eval.seed).x
    np.testing.assert_array_equal(arrays["arr_0"], np.round((x + 1) / 2 * (LEVELS - 1)).clip(0))
    # Other numbers lie beside them.
    run_sampling(experiment, PARAMS, tmp_path, 12, range(3))
    assert (folder / "samples_0-2.npz").is_file() and (folder / "samples_5-15.npz").is_file()


def test_samples_of_vectors(tmp_path):
    experiment = vectors(tmp_path, eval__enable_bpd=False, eval__num_samples=21)
    said = run_sampling(experiment, {"w": jnp.zeros(2)}, tmp_path, 1, range(4))
    (written,) = (tmp_path / "samples" / "step_1").iterdir()
    assert said["samples"] == 4 and written.name == "samples_0-3.npz"
    drawn = np.load(written)["arr_0"]
    assert drawn.shape == (4, 5) and drawn.dtype == np.float32
    report = evaluate(experiment, {"w": jnp.zeros(2)}, tmp_path, 1, [], 0.0)
    assert np.load(tmp_path / "samples.npz")["arr_0"].shape == (21, 5)
    assert "frechet" not in report and "bits_per_dim" not in report
    assert (tmp_path / "report.html").is_file() and not list(tmp_path.glob("*.png"))


# The report.

METRICS = [{"step": s, "training_loss": 1.0 / s, "grad_norm": 1.0} for s in range(1, 9)]
METRICS[3] |= {"eval_loss": 0.5}


@pytest.fixture(scope="module")
def report(file, tmp_path_factory):
    """The folder of a whole evaluation, its report, and its experiment."""
    folder = tmp_path_factory.mktemp("report")
    tight = {"likelihood__rtol": 1e-5, "likelihood__atol": 1e-5}
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
    # Three steps of the predictor, and the last evaluation.
    assert found["nfe"]["sampling"] == 4
    assert found["step"] == 8 and found["seed"] == 5
    assert found["bits_per_dim"]["n"] == N_TEST == found["data"]["test"]
    # log2 of the 64 levels less one, as the scaled data span [-1, 1].
    assert found["bits_per_dim"]["offset"] == pytest.approx(5.0)
    assert found == json.loads((folder / "report_8.json").read_text())
    assert {p.name for p in folder.iterdir()} == {
        *("report.json", "report_8.json", "report.html", "samples.npz"),
        *("samples.png", "data.png", "trajectory.png"),
    }


def test_report_has_the_values_of_its_parts(report, bits):
    folder, found, experiment = report
    for name in ("mean", "stderr"):
        assert found["bits_per_dim"][name] == pytest.approx(getattr(bits[1], name), rel=1e-6)
    assert found["nfe"]["likelihood"] == bits[1].nfe
    assert found["parameters"] == 2
    # The mixture is a good model of these data, and the exact one is no worse than its error.
    gap = found["bits_per_dim"]["mean"] - found["bits_per_dim"]["mixture"]
    assert gap < 3 * found["bits_per_dim"]["stderr"]
    u = np.load(folder / "samples.npz")["arr_0"]
    assert u.shape == (40, *SHAPE) and u.dtype == np.uint8
    test = unit_images(experiment.test)
    np.testing.assert_allclose(test, experiment.test.fetch(np.arange(N_TEST)) / (LEVELS - 1))
    images = {"samples": u / (LEVELS - 1), "train": unit_images(experiment.train, 40)}
    expected = distances(pixels(), images, test)
    for metric in ("frechet", "kid", "mmd"):
        for name in ("samples_test", "train_test"):
            value = expected[metric][name]
            assert found["spaces"][0][metric][name] == pytest.approx(value, rel=1e-9)
    assert found["frechet"]["samples_test"] == found["spaces"][0]["frechet"]["samples_test"]


def test_page_needs_nothing_beside_it(report):
    folder, found, _ = report
    html = (folder / "report.html").read_text()
    # A name of a vocabulary is not fetched; anything else with a scheme would be.
    rest = re.sub(r'xmlns(:\w+)?="[^"]*"', "", html)
    sources = re.findall(r'(?:src|href)\s*=\s*"([^"]*)"', rest)
    assert sources and all(source.startswith("data:") for source in sources)
    assert not re.search(r"url\(\s*['\"]?(?!data:)", rest) and "@import" not in rest
    assert "http" not in re.sub(r"base64,[A-Za-z0-9+/=]*", "", rest)
    for name in ("samples", "data", "trajectory"):
        png = base64.b64encode((folder / f"{name}.png").read_bytes()).decode()
        assert png in html, name
    # As many decimals as show two digits of the standard error, which is between 0.01 and 0.1.
    assert f"{found['bits_per_dim']['mean']:.3f}" in html


def test_page_shows_the_loss_of_training(report):
    """Both curves: the rows of a run call the loss `training_loss`."""
    html = (report[0] / "report.html").read_text()
    curves = [base64.b64decode(b) for b in re.findall(r"image/svg\+xml;base64,([^\"]*)", html)]
    assert len(curves) == 1
    # The legend has a line for each curve.
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
    """Of 40 samples seven are left, which is less than the ten blocks of the error bars."""
    experiment = exact(file, eval__enable_bpd=False, eval__enable_loss=False)
    good = experiment.sample

    def sample(key, predict, x, **kwargs):
        result = good(key, predict, x, **kwargs)
        # Each sample knows by its noise alone whether it fails: about five of six do.
        failed = x[:, 0, 0, 0] < 1.0
        x = jnp.where(failed[:, None, None, None], jnp.nan, result.x)
        return result._replace(x=x, failed=failed, nfe=jnp.broadcast_to(result.nfe, failed.shape))

    experiment = dataclasses.replace(experiment, sample=sample)
    expected = draw(experiment, PARAMS, range(40), experiment.config.eval.seed)
    left = int(np.sum(~expected.failed))
    assert 2 < left < 10
    report = evaluate(experiment, PARAMS, tmp_path, 3, [], 1.0)
    assert report["samples"] == {"n": 40, "seeds": [0, 0, 39], "failed": 40 - left}
    assert np.load(tmp_path / "samples.npz")["arr_0"].shape == (left, *SHAPE)
    assert np.isfinite([v for k, v in report["frechet"].items() if k != "space"]).all()
    said = run_sampling(experiment, PARAMS, tmp_path, 3, range(40))
    assert said["failed"] == 40 - left
    arrays = np.load(tmp_path / "samples" / "step_3" / "samples_0-39.npz")
    np.testing.assert_array_equal(arrays["seeds"], np.flatnonzero(~expected.failed))
    assert len(arrays["arr_0"]) == left


def test_a_classifier_needs_labels(file):
    with pytest.raises(ValueError, match="label"):
        exact(file, eval__features=("classifier",))


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
    """Continuous data have no known range, so there is no feature space; nothing is left behind."""
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        write_fid_stats(vectors(tmp_path), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_levels_and_back(file):
    """What the samples are judged by is on the lattice of the data."""
    experiment = exact(file, data__uniform_dequantization=True)
    assert experiment.scaler == Scaler(LEVELS, True, True)
    u = experiment.test.fetch(np.arange(N_TEST))
    keys = jax.random.split(jax.random.key(0), N_TEST)
    levels, unit = to_levels(experiment, experiment.scaler.to_model(keys, jnp.asarray(u)))
    np.testing.assert_array_equal(levels, u)
    np.testing.assert_allclose(unit, unit_images(experiment.test), rtol=1e-12)
