"""The benchmark of log p: the exact values, the statistics, the peers' scores, a row of slopes."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from closed_form import Gaussian, Mixture
from scipy.stats import multivariate_normal
from sklearn.datasets import load_digits

from benchmarks.likelihood import checks
from benchmarks.likelihood import in_torch as likelihood_torch
from benchmarks.likelihood import speed as command
from benchmarks.likelihood.problem import LAWS, STD, gaussian, mixture


@pytest.fixture(scope="module")
def digits():
    return load_digits().data / 8.0 - 1.0


def test_the_truth_of_gaussian_data_is_that_of_scipy(digits):
    problem = gaussian("vp")
    for t, x, found in (
        (problem.path.t0, np.float64(problem.x), problem.truth),
        (problem.path.t1, np.ones((3, 64)), problem.end(np.ones((3, 64)))),
    ):
        a, c = (float(v) for v in problem.path.coeffs(jnp.asarray(t)))
        cov = a**2 * (np.cov(digits.T, bias=True) + 0.05**2 * np.eye(64)) + c**2 * np.eye(64)
        truth = multivariate_normal(a * digits.mean(0), cov).logpdf(x)
        np.testing.assert_allclose(found, truth, rtol=1e-8)


def test_the_truth_of_a_mixture_is_the_mean_of_its_kernels(digits):
    problem = mixture("edm")
    var = STD**2 + problem.path.t0**2
    square = ((np.float64(problem.x)[:, None] - digits[None, :512]) ** 2).sum(-1)
    truth = np.log(np.mean(np.exp(-0.5 * square / var), axis=1)) - 32 * np.log(2 * np.pi * var)
    np.testing.assert_allclose(problem.truth, truth, rtol=1e-6)


def test_bias_is_in_standard_errors():
    rng = np.random.default_rng(0)
    truth = rng.standard_normal(50)
    draws = truth + 2.0 * rng.standard_normal((1000, 50))
    right, wrong = checks.biases(draws, truth), checks.biases(draws + 0.1, truth)
    assert abs(right["bias"]) < 3.0 and abs(right["square"] - 1.0) < 0.6
    assert abs(right["spread"] - 2.0) < 0.05
    # The shift of 0.1 is 11.2 standard errors 2 / sqrt(1000 * 50) of the mean over all examples.
    # It is 1.58 standard errors 2 / sqrt(1000) of one example, and 1.58^2 = 2.5.
    assert abs(wrong["bias"] - right["bias"] - 11.2) < 0.6
    assert abs(wrong["square"] - right["square"] - 2.5) < 1.0


def test_the_slope_of_a_power_is_its_exponent():
    sizes = np.array([1e-3, 1e-4, 1e-6])
    np.testing.assert_allclose(checks.slope(sizes, 3.0 * sizes**0.8), 0.8)
    assert np.isnan(checks.slope([1.0], [1.0]))


@pytest.mark.parametrize(
    "row, meets",
    [
        ((1e-5, 1.0, 50), True),
        ((1.1e-5, 1.0, 50), False),
        ((1e-5, 1.1, 50), False),
        ((1e-5, 1.0, 51), False),
    ],
)
def test_what_is_better(row, meets):
    names = "error_nats_per_dim", "seconds", "passes"
    assert command.better(dict(zip(names, row)), dict(zip(names, (1e-5, 3.0, 100)))) is meets


def test_the_score_in_torch_is_exact(digits):
    torch = pytest.importorskip("torch")
    rng, law = np.random.default_rng(0), LAWS["edm"]
    y = digits[:5] + 0.3 * rng.standard_normal((5, 64))
    few, cov = digits[:6], np.cov(digits.T, bias=True) + 0.05**2 * np.eye(64)
    known = {
        "gaussian": (gaussian("edm").data, Gaussian(digits.mean(0), cov)),
        "mixture": ((few, STD), Mixture(np.full(6, 1 / 6), few, np.full(6, STD))),
    }
    for name, (data, truth) in known.items():
        of = likelihood_torch.posterior(data)
        for s in (0.3, 3.0):
            found = of(torch.tensor(np.float32(y)), torch.full((5, 1), s))
            exact = truth.predict(law)(jnp.asarray(y, jnp.float32), jnp.asarray(s))
            for part, value in zip(found, (exact.x0, exact.eps)):
                np.testing.assert_allclose(part, value, rtol=0, atol=2e-4, err_msg=name)


@pytest.mark.parametrize("package, law", [("k_diffusion", "edm"), ("flow_matching", "flow")])
def test_a_package_in_torch_comes_near_the_truth(package, law):
    if not all(map(likelihood_torch.installed, ("torch", "torchdiffeq", package))):
        pytest.skip(f"{package} is not installed")
    problem = gaussian(law)
    problem = problem._replace(x=problem.x[:2], truth=problem.truth[:2])
    found = getattr(likelihood_torch, package)(problem, jnp.ones_like(problem.x), True, 1e-4).run()
    assert np.mean(np.abs(found.logp - problem.truth)) / 64 < 3e-4


def test_the_command_writes_slopes(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(checks, "ADAPTIVE", [])
    monkeypatch.setattr(checks, "ORDERS", (2,))
    monkeypatch.setattr(checks, "STEPS", (48, 96))
    out, picture = tmp_path / "rows.json", tmp_path / "slopes.png"
    command.main(f"slopes --json {out} --plot {picture} --workdir {tmp_path}".split())
    (row,) = json.loads(out.read_text())["slopes"]
    assert row["fitted"] == [48, 96] and abs(row["slope"] - 3.0) < 0.4
    assert "adams 2, angle" in capsys.readouterr().out and picture.stat().st_size > 1000
