"""Bits/dim of a data set, and samples, against known values."""

import jax.numpy as jnp
import numpy as np
import pytest
from known_data import LEVELS, MEAN, N_TEST, PARAMS, SHAPE, STD, exact, vectors
from scipy.stats import norm

from data.source import from_array
from evaluation.report.images import of_source
from evaluation.tasks.bits import data_bits
from evaluation.tasks.evaluate import evaluate
from evaluation.tasks.sampling import draw, run_sampling

# Bits per dimension.


def code_lengths(source):
    """Return -log2 P(u) of each example in bits per dimension, and the entropy of P."""
    u = np.arange(LEVELS)
    p = norm.cdf(u + 1, MEAN, STD) - norm.cdf(u, MEAN, STD)
    each = -np.log2(p)[source.fetch(np.arange(source.size))]
    return each.reshape(source.size, -1).mean(axis=1), -np.sum(p * np.log2(p))


def test_bits_of_the_exact_model_are_the_entropy(bits):
    experiment, found = bits
    lengths, entropy = code_lengths(experiment.test)
    assert abs(found.mean - entropy) < 3 * found.stderr
    assert found.stderr == pytest.approx(lengths.std(ddof=1) / N_TEST**0.5, rel=0.1)
    # Per example the difference to the code length is the noise of the dequantisation. Its variance
    # is (z / STD)^2 / 12 nats^2 per pixel at z standard deviations, and the mean of z^2 is 1.
    noise = 1 / (STD * 12**0.5 * np.log(2)) / np.prod(SHAPE) ** 0.5
    difference = found.per_example - lengths
    assert abs(difference.mean()) < 4 * noise / N_TEST**0.5
    assert difference.std() == pytest.approx(noise, rel=0.35)
    assert found.failed == 0 and 20 < found.nfe < 500


def test_every_example_counts_once_whatever_the_batch(file, bits):
    whole = bits[1]
    assert whole.per_example.shape == (N_TEST,)
    assert len(np.unique(whole.per_example)) == N_TEST
    experiment = exact(file, eval__batch_size=20)
    found = data_bits(experiment, PARAMS, experiment.test)
    # There are 4 batches; the last is padded with copies of the first example.
    np.testing.assert_allclose(found.per_example, whole.per_example, atol=2e-5)
    assert found.mean == pytest.approx(whole.per_example.mean(), abs=1e-5)
    assert found.nfe == pytest.approx(whole.nfe, rel=0.02)


def test_passes_have_noise_of_their_own(file, bits):
    experiment = exact(file, eval__bpd_repeats=2)
    found, first = data_bits(experiment, PARAMS, experiment.test), bits[1].per_example
    second = 2 * found.per_example - first
    assert (abs(second - first) > 1e-6).all()
    # The deviations of the two passes from the code lengths are independent.
    lengths, _ = code_lengths(experiment.test)
    assert abs(np.corrcoef(first - lengths, second - lengths)[0, 1]) < 4 / N_TEST**0.5


def test_bits_need_levels(tmp_path):
    experiment = vectors(tmp_path)
    with pytest.raises(ValueError, match=r"not defined for continuous data.*enable_bpd=false\.$"):
        evaluate(experiment, PARAMS, tmp_path, 1, [], 0.0)
    with pytest.raises(ValueError, match="continuous"):
        data_bits(experiment, PARAMS, experiment.test)
    assert not list(tmp_path.glob("report*"))


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
    """A sample depends on its seed only, in batches of any size. The padding of the last batch is
    dropped."""
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
    """The mean and the spread of the samples are those of the data within 4 standard errors."""
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
    # Samples of other seeds get a file of their own.
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


def test_a_part_of_sorted_data_is_like_the_whole():
    """Of 1000 images sorted by brightness, a part of 100 has the mean of all within its error.

    The same holds for the means of the blocks, which error bars are made of. The mean of the first
    100 images would be off by 15 errors.
    """
    levels = np.sort(np.random.default_rng(0).integers(0, 256, (1000, 1, 1, 1)), axis=0)
    source = from_array("sorted", "train", levels.astype(np.uint8), None, 256)
    part, whole = (of_source(source, n).first(1000).ravel() for n in (100, None))
    assert len(part) == 100
    error = whole.std() / 10.0
    assert abs(part.mean() - whole.mean()) < 3.0 * error
    assert np.abs(part.reshape(10, 10).mean(axis=1) - whole.mean()).max() < 4.0 * error * 10.0**0.5
    np.testing.assert_array_equal(whole, np.ravel(levels) / 255.0)
    np.testing.assert_array_equal(np.sort(of_source(source, 5000).first(5000).ravel()), whole)
