"""The problems of `benchmarks.likelihood`: 32 examples drawn from the law at eps, D = 64.

`gaussian`, with the covariance of the digits, and `mixture`, N(x_i, 0.2^2) over 512 digits, have an
exact score and a formula for log p. `network` has the trained network of a run.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.datasets import load_digits

from exact import GaussianMoments
from exact.empirical import empirical_logp, empirical_predict, points
from exact.gaussian import gaussian_predict, moments
from likelihood import DIVERGENCES, Adams, log_likelihood
from sde_lib import EDM, VE, VP, AffinePath, Flow, example_keys
from sde_lib.prediction import PredictFn

LAWS = {"vp": VP(), "ve": VE(), "edm": EDM(), "flow": Flow()}
STD = 0.2
EXAMPLES = 32
KEYS = example_keys(0, jnp.arange(EXAMPLES))
TRUTH = Adams(511)  # the solver whose log p is the truth for `network`


class Problem(NamedTuple):
    """A law, a prediction function, examples `x` of the law at eps, and their true log p.

    `truth` `(B,)` is in nats. `end` is the log density at t1: the true one where it is known, so
    that no method has an error from the prior. Peers compute the exact score from `data`: moments,
    or points and their common std.
    """

    name: str
    path: AffinePath
    predict: PredictFn
    x: jax.Array
    truth: np.ndarray
    end: Callable[[jax.Array], jax.Array]
    data: GaussianMoments | tuple[np.ndarray, float] | None = None


def noised(path: AffinePath, data: np.ndarray) -> jax.Array:
    """Return examples of the law at t0, where a likelihood begins, float32."""
    a, c = (float(v) for v in path.coeffs(jnp.asarray(path.t0)))
    z = np.random.default_rng(1).standard_normal(data.shape)
    return jnp.asarray(a * data + c * z, jnp.float32)


def gaussian(law: str) -> Problem:
    """Return the problem N(mean, covariance) of the digits, with 0.05^2 added to every variance."""
    path, digits = LAWS[law], load_digits().data / 8.0 - 1.0
    found = moments(digits)
    cov = np.cov(digits.T, bias=True) + 0.05**2 * np.eye(64)
    values, vectors = np.linalg.eigh(cov)
    model = found._replace(U=vectors[:, ::-1], L=values[::-1])
    rng = np.random.default_rng(0)
    x = noised(path, rng.multivariate_normal(found.mean, cov, EXAMPLES))

    def logp(y, t):
        with jax.ensure_compile_time_eval():
            a, c = (float(v) for v in path.coeffs(jnp.asarray(t)))
        spread = a**2 * values + c**2
        gap = (y - a * found.mean) @ vectors
        return -0.5 * (gap**2 / spread + np.log(2.0 * np.pi * spread)).sum(axis=1)

    truth, end = logp(np.float64(x), path.t0), partial(logp, t=path.t1)
    return Problem(f"gaussian {law}", path, gaussian_predict(path, model), x, truth, end, model)


def mixture(law: str) -> Problem:
    path, digits = LAWS[law], load_digits().data[:512] / 8.0 - 1.0
    rng = np.random.default_rng(0)
    drawn = digits[rng.integers(0, 512, EXAMPLES)] + STD * rng.standard_normal((EXAMPLES, 64))
    x, data = noised(path, drawn), points(digits, std=STD)
    with jax.enable_x64(True):
        wide = points(digits, std=STD)
        truth = np.asarray(empirical_logp(path, wide, jnp.asarray(x, jnp.float64), path.t0))
    end = lambda y: empirical_logp(path, data, y, jnp.asarray(path.t1))
    predict = empirical_predict(path, data)
    return Problem(f"mixture {law}", path, predict, x, truth, end, (digits, STD))


def network(config: Path, workdir: Path, known: bool = True) -> Problem:
    """Return the problem of a run's averaged network on its dequantised test data.

    The truth takes long to compute, and is nan unless `known`.
    """
    import runpy

    from builders.experiment import build
    from training.restore import restore_ema

    experiment = build(runpy.run_path(str(config))["get_config"]())
    _, params = restore_ema(experiment, workdir, None)
    numbers = np.arange(EXAMPLES)
    keys = example_keys(0, jnp.asarray(numbers))
    x = experiment.bits_scaler.to_model(keys, experiment.test.fetch(numbers))
    path, predict = experiment.path, experiment.predict(params)
    name = f"network {experiment.config.sde.name}"
    problem = Problem(name, path, predict, x, np.full(EXAMPLES, np.nan), path.prior_logp)
    if not known:
        return problem
    # The network computes in float32, the sums of its values in float64.
    exact = partial(log_likelihood, KEYS, path, predict, divergence=DIVERGENCES["exact"](1))
    with jax.enable_x64(True):
        truth = jax.jit(partial(exact, solver=TRUTH))(jnp.asarray(x, jnp.float64)).logp
    return problem._replace(truth=np.asarray(truth))
