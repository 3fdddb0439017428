"""A state of two parts under two laws gives the same results as each part alone."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm

from likelihood import DIVERGENCES, log_likelihood
from losses import denoising_loss
from samplers import (
    Solver,
    ancestral,
    ddim,
    dpm_multistep,
    euler_maruyama,
    heun,
    langevin,
    make_grid,
    predictor_corrector,
    sample,
)
from sde_lib import VE, VP, expand, fold_in, make_product
from sde_lib.prediction import from_score

pytestmark = pytest.mark.usefixtures("x64")
KEY = jax.random.key(0)
LAWS = {"nodes": VP(), "edges": VE(sigma_max=5.0)}
SHAPES = {"nodes": (3, 2), "edges": (5,)}
LAW = make_product(LAWS, SHAPES)
# (mean, standard deviation) of each part, whose data are normal.
DATA = {"nodes": (0.5, 0.7), "edges": (-1.0, 0.3)}
METHODS = {
    "heun": heun,
    "ddim": ddim,
    "2M": lambda law: dpm_multistep(law, 2),
    "euler_maruyama": euler_maruyama,
    "ancestral": ancestral,
    "pc": lambda law: predictor_corrector(ancestral(law), langevin(law, 0.2, 2)),
    "pc, batch": lambda law: predictor_corrector(ancestral(law), langevin(law, 0.2, 1, "batch")),
}


def moments(name, t):
    """Return mean and variance of a part at t, by its own law."""
    (m, s), (a, c) = DATA[name], LAWS[name].coeffs(t)
    return a * m, a**2 * s**2 + c**2


def score_of(name, x, t):
    mean, variance = (expand(v, x) for v in moments(name, t))
    return -(x - mean) / variance


def score(x, t):
    return LAW.pack({k: score_of(k, part, t) for k, part in LAW.unpack(x).items()})


class Alone:
    """The law of one part alone, with the noise that it gets as part number i."""

    def __init__(self, law, i):
        self.law, self.i = law, i

    def __getattr__(self, name):
        return getattr(self.law, name)

    def noise(self, key, x):
        return self.law.noise(fold_in(key, self.i), x)


def start():
    rng = np.random.default_rng(0)
    return {
        k: rng.normal(size=(4, *shape)) * float(moments(k, 1.0)[1]) ** 0.5
        for k, shape in SHAPES.items()
    }


@functools.cache
def runs():
    """Return for each method the parts of a run with the whole, and a run of each part alone."""

    @jax.jit
    def run(parts):
        ts, found = make_grid("uniform", VP(), 6, 0.01), {}
        for name, make in METHODS.items():
            predict = from_score(LAW, score)
            whole = sample(KEY, predict, make(LAW), LAW.pack(parts), ts).x
            alone = {}
            for i, (k, law) in enumerate(LAWS.items()):
                law = Alone(law, i)
                mine = from_score(law, lambda x, t, k=k: score_of(k, x, t))
                alone[k] = sample(KEY, mine, make(law), parts[k], ts).x
            found[name] = LAW.unpack(whole), alone
        return found

    return jax.device_get(run(start()))


@pytest.mark.parametrize("name", METHODS)
def test_each_part_moves_as_it_does_alone(name):
    whole, alone = runs()[name]
    for part in SHAPES:
        assert whole[part].shape == (4, *SHAPES[part])
        np.testing.assert_allclose(whole[part], alone[part], rtol=1e-9, atol=1e-10)


def test_log_likelihood_is_the_sum_over_the_parts():
    rng = np.random.default_rng(1)
    parts = {k: rng.normal(*DATA[k], size=(3, *shape)) for k, shape in SHAPES.items()}
    solver = Solver("tsit5", 1e-9, 1e-9, 4000, "t", 1.0)

    @jax.jit
    def run(parts):
        predict, divergence = from_score(LAW, score), DIVERGENCES["exact"]()
        x = LAW.pack(parts)
        return log_likelihood(KEY, LAW, predict, x, divergence=divergence, solver=solver, eps=1e-2)

    truth = 0.0
    for k, x in parts.items():
        mean, variance = (float(v) for v in moments(k, 1e-2))
        truth = truth + norm.logpdf(x, mean, variance**0.5).reshape(3, -1).sum(axis=1)
        # At t1 the law of x differs a little from the prior, in mean and std. So below the prior's
        # log density is replaced by that of x_{t1}.
    found = run(parts)
    prior = LAW.prior_logp(found.latent)
    ends = 0.0
    for k, x in LAW.unpack(found.latent).items():
        mean, variance = (float(v) for v in moments(k, 1.0))
        ends = ends + norm.logpdf(np.asarray(x), mean, variance**0.5).reshape(3, -1).sum(axis=1)
    np.testing.assert_allclose(found.logp - prior + ends, truth, rtol=1e-6)


def test_the_loss_weighs_each_part_by_its_own_law():
    """With a network of output 0 for eps, the loss is the mean of z^2, which is 1."""
    loss = denoising_loss(LAW, lambda params, x, cond, key: jnp.zeros_like(x), "eps", "t")
    x = jnp.zeros((2000, 11))
    value, _ = loss({}, None, KEY, {"x0": x})
    np.testing.assert_allclose(value, 1.0, atol=5.0 * (2.0 / x.size) ** 0.5)


def test_pack_and_total():
    x = LAW.pack({"nodes": jnp.ones((2, 3, 2)), "edges": 2.0 * jnp.ones((2, 5))})
    np.testing.assert_array_equal(x[0], [1.0] * 6 + [2.0] * 5)
    np.testing.assert_array_equal(LAW.total(x)[1], [6.0] * 6 + [10.0] * 5)
    prior = LAW.unpack(LAW.prior_sample(KEY, (4000, 11)))
    for name, std in (("nodes", 1.0), ("edges", 5.0)):
        found = np.std(np.asarray(prior[name]))
        np.testing.assert_allclose(found, std, rtol=5.0 / (2 * prior[name].size) ** 0.5)


@pytest.mark.parametrize(
    "laws, shapes, words",
    [
        (LAWS, {"nodes": (3,)}, "There are laws for nodes, edges and shapes for nodes"),
        ({"nodes": VP(), "edges": VP(t0=1e-3)}, SHAPES, "they must share t0 and t1"),
    ],
)
def test_refusals(laws, shapes, words):
    with pytest.raises(ValueError, match=words):
        make_product(laws, shapes)


def test_a_grid_in_the_log_snr_is_refused():
    with pytest.raises(ValueError, match="a log-SNR for each of them"):
        make_grid("uniform_lam", LAW, 5, 0.01)
