"""Sliced score matching: value, minimiser, and a network trained for a law without a kernel."""

import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from closed_form import M1
from scipy.stats import norm

from exact.fokker_planck import fokker_planck
from losses.sliced import draw, sliced_loss, sliced_terms
from samplers import heun, sample
from sde_lib import VP
from sde_lib.double_well import DoubleWell
from sde_lib.score_only import score_only
from training.state import create_state
from training.step import make_train_step

STRAIGHT = DoubleWell(linear=-0.5, cubic=0.0, g=1.0, t1=2.0)
CUBIC = DoubleWell(linear=0.0, cubic=1.0, g=1.0, t1=1.0)
MEAN, STD = 0.8, 0.5


def test_terms_are_the_trace_and_half_the_square(x64):
    """The mean of the terms over all probes of signs is `tr ds/dx + |s|^2 / 2`.

    The field has a full Jacobian.
    """
    A = np.random.default_rng(0).standard_normal((3, 3))
    x = np.random.default_rng(1).standard_normal((1, 3))
    signs = np.array(list(itertools.product((-1.0, 1.0), repeat=3)))[:, None]
    score = lambda x: jnp.sin(x @ A.T)
    run = jax.jit(lambda x: jnp.sum(jax.vmap(lambda v: sliced_terms(score, x, v))(signs), (1, 2)))
    # ds_i/dx_j = cos((A x)_i) A_ij
    u = A @ x[0]
    truth = np.sum(np.cos(u) * np.diag(A)) + 0.5 * np.sum(np.sin(u) ** 2)
    np.testing.assert_allclose(np.mean(run(x)), truth, rtol=1e-12)


def moments(t):
    """Return mean and variance of x_t under the straight law, VP with beta = 1."""
    xp = jnp if isinstance(t, jax.core.Tracer) else np
    return MEAN * xp.exp(-0.5 * t), STD**2 * xp.exp(-t) - xp.expm1(-t)


def test_minimiser_is_the_score_and_value_is_half_its_square():
    """At Gaussian data's mean and spread the gradient is zero and the loss `-E 1 / (2 v)`.

    Both hold within their standard errors over 200 batches under the straight law; at other values
    neither holds.
    """

    def network(params, x, cond, dropout_key):
        shift, scale = params
        mean, variance = (v[:, None, None] for v in moments(cond))
        return -scale * (x - shift * mean) / variance

    loss = sliced_loss(STRAIGHT, network, steps=40)

    @jax.vmap
    def run(key):
        data_key, key = jax.random.split(key)
        batch = {"x0": MEAN + STD * jax.random.normal(data_key, (64, 2, 1))}
        at = jnp.asarray([[1.0, 1.0], [1.2, 1.0], [1.0, 1.1]])
        return jax.vmap(jax.value_and_grad(lambda p: loss(p, None, key, batch)[0]))(at)

    values, gradients = jax.device_get(
        jax.jit(lambda: run(jax.random.split(jax.random.key(0), 200)))()
    )
    true, shifted, scaled = np.mean(gradients, 0) / np.std(gradients, 0) * np.sqrt(200)
    assert np.all(abs(true) < 4.0), true
    assert abs(shifted[0]) > 6.0 and abs(scaled[1]) > 6.0
    t = np.linspace(0.0, 2.0, 2001)
    truth = -0.5 * np.mean(1.0 / moments(t)[1])
    assert abs(np.mean(values[:, 0]) - truth) < 4.0 * np.std(values[:, 0]) / np.sqrt(200)


def test_draws_have_the_law_of_their_times():
    """x standardised by the straight law's moments at t has mean 0 and variance 1."""
    x0 = np.float32(MEAN + STD * np.random.default_rng(0).standard_normal((20_000, 1)))
    run = jax.jit(lambda key: draw(STRAIGHT, key, x0, 100, True))
    x, t, v = jax.device_get(run(jax.random.key(1)))
    mean, variance = moments(np.float64(t)[:, None])
    z = (x - mean) / np.sqrt(variance)
    assert abs(np.mean(z)) < 4 / np.sqrt(20_000) and abs(np.var(z) - 1) < 4 * np.sqrt(2 / 20_000)
    assert set(np.unique(v)) == {-1.0, 1.0}
    np.testing.assert_allclose(np.sort(t), (np.arange(20_000) + 0.5) / 10_000, atol=2e-4)


class Net(nn.Module):
    """A small network that is added to the prior's score; it gets the time on several scales."""

    @nn.compact
    def __call__(self, x, t):
        scales = jnp.exp(-t[:, None] / jnp.asarray([0.03, 0.1, 0.3, 1.0]))
        h = jnp.concatenate([x, scales], axis=-1)
        for _ in range(3):
            h = nn.silu(nn.Dense(64)(h))
        return nn.Dense(1)(h)


def trained(updates=700, size=256):
    net = Net()
    network = lambda params, x, cond, dropout_key: net.apply(params, x, cond)
    loss = sliced_loss(CUBIC, network, steps=40, base=CUBIC.prior_score)
    tx = optax.adam(optax.cosine_decay_schedule(5e-3, updates))
    step = make_train_step(loss, tx, 0.999)
    data = M1.draw(np.random.default_rng(0), updates * size).astype(np.float32)
    batches = {"x0": data.reshape(updates, size, 1)}

    @jax.jit
    def train(batches):
        params = net.init(jax.random.key(0), jnp.zeros((1, 1)), jnp.ones(1))
        return jax.lax.scan(step, create_state(params, tx, 0), batches)[0].ema_params

    params = train(batches)
    return lambda x, t: (
        CUBIC.prior_score(x) + net.apply(params, x, jnp.broadcast_to(t, x.shape[:1]))
    )


def test_a_network_learns_the_score_of_a_law_without_kernel():
    """A network learns the score of `dx = -x^3 dt + dw` from data of two peaks.

    Its score is compared with the Fokker-Planck equation's, relative to the mean square of the
    latter. The flow is run back from the exact density at t1 and compared with the data.
    """
    grid, times = np.linspace(-4.0, 4.0, 801), np.linspace(0.0, 1.0, 81) ** 2
    logp = lambda x: np.log(0.4 * norm.pdf(x, -1.2, 0.35) + 0.6 * norm.pdf(x, 0.9, 0.35))
    density, score = fokker_planck(CUBIC, logp, grid, times), trained()
    p = np.exp(density.table[24::8]) / np.sum(np.exp(density.table[24::8]), 1, keepdims=True)
    u, ends = (np.arange(1000) + 0.5) / 1000, []
    for row in (density.table[-1], density.table[0]):
        cdf = np.concatenate([[0.0], np.cumsum(np.exp(row[1:]) + np.exp(row[:-1]))])
        ends.append(np.interp(u, cdf / cdf[-1], grid))

    @jax.jit
    def run(start, ts):
        x = jnp.asarray(grid, jnp.float32)[:, None]
        both = jax.vmap(lambda t: jnp.stack([f(x, t)[:, 0] for f in (score, density.score)]))
        nodes, predict = jnp.linspace(1.0, 0.0, 51), score_only(CUBIC, score)
        end = sample(jax.random.key(0), predict, heun(CUBIC), start, nodes).x
        return both(ts), end

    scores, end = jax.device_get(run(np.float32(ends[0])[:, None], np.float32(times[24::8])))
    found, truth = np.moveaxis(scores, 1, 0)
    error = np.sum(p * (found - truth) ** 2, 1) / np.sum(p * truth**2, 1)
    assert np.all(error < 0.02) and np.mean(error) < 0.01, error
    distance = np.mean(np.abs(np.sort(end[:, 0]) - ends[1]))
    assert distance < 0.15 * np.mean(np.abs(ends[0] - ends[1])), distance


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [({"conditioning": "lam"}, "conditioning is 'lam'"), ({"steps": 0}, "steps is 0")],
)
def test_refusals(kwargs, message):
    with pytest.raises(ValueError, match=message):
        sliced_loss(VP(), None, **kwargs)
