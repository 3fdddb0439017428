"""Sliced score matching: value, minimiser, and a network trained for a law without a kernel."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from closed_form import M1
from scipy.stats import norm

from losses.sliced import draw, sliced_loss, sliced_terms
from samplers import heun, sample
from sde_lib import VP
from sde_lib.double_well import DoubleWell
from sde_lib.fokker_planck import fokker_planck
from sde_lib.score_only import score_only
from training.state import create_state
from training.step import make_train_step

STRAIGHT = DoubleWell(linear=-0.5, cubic=0.0, g=1.0, t1=2.0)
CUBIC = DoubleWell(linear=0.0, cubic=1.0, g=1.0, t1=1.0)
MEAN, STD = 0.8, 0.5


def test_terms_are_the_trace_and_half_the_square(x64):
    """Over all signs, for a field with a full Jacobian: `tr ds/dx + |s|^2 / 2`."""
    A = np.random.default_rng(0).standard_normal((3, 3))
    x = jnp.asarray(np.random.default_rng(1).standard_normal((1, 3)))
    score = lambda x: jnp.sin(x @ A.T)
    signs = jnp.asarray(
        [[[a, b, c]] for a in (-1.0, 1.0) for b in (-1.0, 1.0) for c in (-1.0, 1.0)]
    )
    found = jnp.mean(jnp.sum(jax.vmap(lambda v: sliced_terms(score, x, v))(signs), axis=(1, 2)))
    trace = jnp.trace(jax.jacfwd(lambda v: score(v[None])[0])(x[0]))
    np.testing.assert_allclose(found, trace + 0.5 * jnp.sum(score(x) ** 2), rtol=1e-12)


def moments(t):
    """Mean and variance of x_t under the straight law, VP with beta = 1."""
    return MEAN * jnp.exp(-0.5 * t), STD**2 * jnp.exp(-t) - jnp.expm1(-t)


def test_minimiser_is_the_score_and_value_is_half_its_square():
    """Gaussian data under the straight law. At the true mean and spread the gradient is zero by its
    own error over 200 batches, and the loss is `-E 1 / (2 v)`; at others it is neither."""

    def network(params, x, cond, dropout_key):
        shift, scale = params
        mean, variance = (v[:, None, None] for v in moments(cond))
        return -scale * (x - shift * mean) / variance

    loss = sliced_loss(STRAIGHT, network, steps=40)

    @jax.jit
    @jax.vmap
    def run(key):
        data_key, key = jax.random.split(key)
        batch = {"image": MEAN + STD * jax.random.normal(data_key, (64, 2, 1))}
        at = jnp.asarray([[1.0, 1.0], [1.2, 1.0], [1.0, 1.1]])
        return jax.vmap(jax.value_and_grad(lambda p: loss(p, None, key, batch)[0]))(at)

    values, gradients = run(jax.random.split(jax.random.key(0), 200))
    true, shifted, scaled = np.mean(gradients, 0) / np.std(gradients, 0) * np.sqrt(200)
    assert np.all(abs(true) < 4.0), true
    assert abs(shifted[0]) > 6.0 and abs(scaled[1]) > 6.0
    t = np.linspace(0.0, 2.0, 2001)
    truth = -0.5 * np.mean(1.0 / np.asarray(moments(t)[1]))
    assert abs(np.mean(values[:, 0]) - truth) < 4.0 * np.std(values[:, 0]) / np.sqrt(200)


def test_draws_have_the_law_of_their_times():
    """x given t, by the moments of the straight law: standardised, mean 0 and variance 1."""
    x0 = MEAN + STD * jax.random.normal(jax.random.key(0), (20_000, 1))
    x, t, v = jax.jit(lambda k: draw(STRAIGHT, k, x0, 100, True))(jax.random.key(1))
    mean, variance = moments(t[:, None])
    z = (x - mean) / jnp.sqrt(variance)
    assert abs(jnp.mean(z)) < 4 / np.sqrt(20_000) and abs(jnp.var(z) - 1) < 4 * np.sqrt(2 / 20_000)
    assert set(np.unique(v)) == {-1.0, 1.0}
    np.testing.assert_allclose(np.sort(t), (np.arange(20_000) + 0.5) / 10_000, atol=2e-4)


class Net(nn.Module):
    """What is added to the prior's score: small, and told of the time on several scales."""

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
    params = net.init(jax.random.key(0), jnp.zeros((1, 1)), jnp.ones(1))
    data = M1.draw(np.random.default_rng(0), updates * size).astype(np.float32)
    batches = {"image": jnp.asarray(data.reshape(updates, size, 1))}
    state = jax.jit(lambda s, b: jax.lax.scan(step, s, b))(create_state(params, tx, 0), batches)[0]
    return lambda x, t: (
        CUBIC.prior_score(x) + net.apply(state.ema_params, x, jnp.broadcast_to(t, x.shape[:1]))
    )


def test_a_network_learns_the_score_of_a_law_without_kernel():
    """`dx = -x^3 dt + dw` from two peaks, against the Fokker-Planck equation: the score by its own
    mean square, and the data when the flow is run back from the exact density at t1."""
    grid, times = np.linspace(-4.0, 4.0, 801), np.linspace(0.0, 1.0, 81) ** 2
    logp = lambda x: np.log(0.4 * norm.pdf(x, -1.2, 0.35) + 0.6 * norm.pdf(x, 0.9, 0.35))
    density, score = fokker_planck(CUBIC, logp, grid, times), trained()
    p = np.exp(density.table[24::8]) / np.sum(np.exp(density.table[24::8]), 1, keepdims=True)
    x = jnp.asarray(grid, jnp.float32)[:, None]
    both = jax.jit(jax.vmap(lambda t: jnp.stack([f(x, t)[:, 0] for f in (score, density.score)])))
    found, truth = np.moveaxis(both(jnp.asarray(times[24::8], jnp.float32)), 1, 0)
    error = np.sum(p * (found - truth) ** 2, 1) / np.sum(p * truth**2, 1)
    assert np.all(error < 0.02) and np.mean(error) < 0.01, error
    u = (np.arange(1000) + 0.5) / 1000
    ends = []
    for row in (density.table[-1], density.table[0]):
        cdf = np.concatenate([[0.0], np.cumsum(np.exp(row[1:]) + np.exp(row[:-1]))])
        ends.append(np.interp(u, cdf / cdf[-1], grid))
    start, ts = jnp.asarray(ends[0], jnp.float32)[:, None], jnp.linspace(1.0, 0.0, 51)
    run = lambda x: sample(jax.random.key(0), score_only(CUBIC, score), heun(CUBIC), x, ts).x
    distance = np.mean(np.abs(np.sort(np.asarray(jax.jit(run)(start))[:, 0]) - ends[1]))
    assert distance < 0.15 * np.mean(np.abs(ends[0] - ends[1])), distance


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [({"conditioning": "lam"}, "conditioning is 'lam'"), ({"steps": 0}, "steps is 0")],
)
def test_refusals(kwargs, message):
    with pytest.raises(ValueError, match=message):
        sliced_loss(VP(), None, **kwargs)
