"""Teleportation: exact for Gaussian data, and with a small error for digits."""

from functools import partial

import jax
import numpy as np
import pytest
from closed_form import Gaussian, Mixture
from sklearn.cluster import KMeans
from sklearn.datasets import load_digits

from exact.gaussian import GaussianMoments, gaussian_flow
from samplers import ddim, heun, make_grid, sample
from samplers.around.teleport import teleport
from samplers.steps.bdia import bdia
from sde_lib import EDM, VE, VP, Flow

pytestmark = pytest.mark.usefixtures("x64", "strict_ranks")
KEY = jax.random.key(0)
LAWS = {"vp": VP(), "ve": VE(), "flow": Flow(t1=0.95)}
DATA = Gaussian(np.array([0.4, -0.7]), np.array([[0.5, 0.2], [0.2, 0.3]]))


def normal(*shape):
    return np.random.default_rng(0).standard_normal(shape)


def model_of(mean, cov):
    L, U = np.linalg.eigh(cov)
    return GaussianMoments(mean, U[:, ::-1], L[::-1])


def by(method):
    return lambda key, predict, x, ts: sample(key, predict, method, x, ts)


@pytest.mark.parametrize("law_name", LAWS)
def test_with_the_exact_score_the_skip_only_removes_error(law_name):
    """With the exact score, a jump keeps the sampler's limit; longer jumps have less error."""
    law, eps = LAWS[law_name], 1e-3
    ts, finer = (np.asarray(make_grid("uniform_lam", law, n, eps)) for n in (20, 40))
    x = float(law.prior_std()) * normal(20, 2)
    flow = partial(gaussian_flow, law, model_of(*DATA))
    exact = DATA.flow_map(law, x, law.t1, eps)
    # Noise levels at nodes of this grid, which are nodes of the finer grid too.
    sigmas = np.exp(-np.asarray(law.lam(ts)))[[0, 8, 14]]

    @jax.jit
    def runs(x):
        skips = [(ts, sigma) for sigma in sigmas] + [(finer, sigmas[1])]
        made = [teleport(flow, by(ddim(law)), law, *skip) for skip in skips]
        return [run(KEY, DATA.predict(law), x).x for run in made]

    *errors, half = (np.sqrt(np.mean((end - exact) ** 2)) for end in runs(x))
    assert np.all(np.diff(errors) < 0.0) and errors[-1] < 0.3 * errors[0]
    # Halving DDIM's steps halves the error of the rest of the path, after a jump too.
    assert 1.6 < errors[1] / half < 2.4, errors[1] / half


@pytest.mark.parametrize("method", [heun, bdia])
def test_nodes_and_evaluations(method):
    """The jump ends on the first node at or below sigma; the rest is the sampler's own run."""
    law, calls = EDM(), []

    def predict(x, t):
        jax.debug.callback(lambda: calls.append(1))
        return DATA.predict(law)(x, t)

    def flow(x, s, t):
        jumps.append((float(s), float(t)))
        return 0.5 * x

    x, ts, sampler = np.ones((2, 2)), np.array([80.0, 20.0, 5.0, 1.0, 0.1]), method(law)
    for sigma, first in ((80.0, 0), (20.0, 1), (19.0, 2)):
        jumps = []
        calls.clear()
        run = teleport(flow, by(sampler), law, ts, sigma)
        start = 0.5 * x if first else x
        own = lambda x, first=first: sample(KEY, DATA.predict(law), sampler, x, ts[first:]).x
        both = jax.jit(lambda x, y, run=run, own=own: (run(KEY, predict, x), own(y)))
        out, truth = jax.block_until_ready(both(x, start))
        jax.effects_barrier()
        assert len(calls) == out.nfe == (4 - first) * sampler.nfe
        assert jumps == ([(80.0, float(ts[first]))] if first else [])
        np.testing.assert_allclose(out.x, truth, rtol=1e-12)


def test_digits_forgive_the_start():
    """The error against the whole run is tiny for jumps to far above the data's largest std.

    For jumps to lower noise levels it rises. The network is that of twenty Gaussians fitted to the
    digits, with Heun on 24 nodes.
    """
    law, sigmas = EDM(t1=80.0), (40.0, 10.0, 5.0, 2.0, 0.5)
    data, net = fitted_mixture()
    cov = net.moments(law, 0.0)[1]
    flow = partial(gaussian_flow, law, model_of(data.mean(0), cov))
    ts = np.asarray(make_grid("karras", law, 24, 2e-2))
    # Starts are draws of the law at t1; draws of the prior would add an error of their own.
    x = net.draw(np.random.default_rng(1), 64) + 80.0 * normal(64, 64)
    run = lambda sigma: jax.jit(
        lambda x: teleport(flow, by(heun(law)), law, ts, sigma)(KEY, net.predict(law), x).x
    )
    whole = np.asarray(run(np.inf)(x))
    size = np.sqrt(np.mean((whole - whole.mean(0)[None]) ** 2))
    errors = [np.sqrt(np.mean((run(sigma)(x) - whole) ** 2)) / size for sigma in sigmas]
    assert np.all(np.diff(errors) > 0.0)
    assert errors[1] < 1e-3 and errors[2] < 1e-2 and errors[-1] > 0.2


def fitted_mixture():
    data = load_digits().data / 8.0 - 1.0
    fit = KMeans(20, n_init=1, random_state=0).fit(data)
    weights = np.bincount(fit.labels_) / len(data)
    means = np.stack([data[fit.labels_ == k].mean(0) for k in range(20)])
    stds = np.array(
        [data[fit.labels_ == k].std(0) @ data[fit.labels_ == k].std(0) for k in range(20)]
    )
    return data, Mixture(weights, means, np.sqrt(stds / 64))


@pytest.mark.parametrize(
    ("ts", "sigma", "message"),
    [
        (np.array([80.0, 1.0, 0.1]), 0.5, "last step starts at c / a = 1;"),
        (np.array([80.0, 1.0, 0.1]), float("nan"), "sigma is nan"),
        (np.ones((3, 2)), 0.5, "one grid for all"),
    ],
)
def test_refusals(ts, sigma, message):
    with pytest.raises(ValueError, match=message):
        teleport(lambda x, s, t: x, by(ddim(EDM())), EDM(), ts, sigma)
