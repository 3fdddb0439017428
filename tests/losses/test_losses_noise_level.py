"""The cross-entropy of the classifier of noise levels: its least value and its minimiser."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from closed_form import Mixture
from scipy.special import xlogy

from losses.noise_level import noise_level_loss
from sde_lib import EDM, VP

KEY = jax.random.key(0)
DATA = Mixture(np.array([0.3, 0.7]), np.array([[-1.0], [0.8]]), np.array([0.2, 0.2]))
SIGMAS = np.geomspace(10.0, 0.1, 6)
LAWS = {"edm": EDM(t0=0.05, t1=20.0), "vp": VP()}


def times(law):
    return law.t_of_lam(np.asarray(-np.log(SIGMAS), jnp.result_type(float)))


def of_levels(law, network):
    return noise_level_loss(law, network, 6, sigma_min=0.1, sigma_max=10.0)


def posterior(scale, y):
    """Return log p(k | y) times `scale`; with scale 1 these are the exact logits."""
    logp = jax.vmap(lambda s: DATA.logp(EDM(), y, s), out_axes=1)(jnp.asarray(SIGMAS))
    return scale * logp


def entropy():
    """Return H(k | y) in nats, `mean_k E_{y | k} -log p(k | y)`, by quadrature."""
    y = np.linspace(-90.0, 90.0, 40_001)
    v = DATA.stds**2 + SIGMAS[:, None, None] ** 2
    parts = np.exp(-0.5 * (y[:, None] - DATA.means[:, 0]) ** 2 / v) / np.sqrt(2 * np.pi * v)
    p = parts @ DATA.weights
    return np.trapezoid(np.sum(-xlogy(p, p) + xlogy(p, p.sum(0)), axis=0), y) / len(SIGMAS)


@pytest.mark.parametrize("name", LAWS)
def test_the_least_value_is_the_entropy_and_its_place_the_posterior(name, x64):
    """With exact logits the mean loss is H(k | y) and its gradient is zero.

    Both hold within their standard errors over 300 batches. With logits that are wrong by a tenth,
    the gradient points back.
    """
    law = LAWS[name]
    loss = of_levels(law, lambda scale, y, cond, dropout_key: posterior(scale, y))

    @jax.vmap
    def values(key):
        data_key, key = jax.random.split(key)
        side_key, noise_key = jax.random.split(data_key)
        side = jax.random.bernoulli(side_key, 0.7, (256,)).astype(int)
        x0 = jnp.asarray(DATA.means)[side] + 0.2 * jax.random.normal(noise_key, (256, 1))
        value = lambda scale: loss(scale, None, key, {"x0": x0})[0]
        return jax.vmap(jax.value_and_grad(value))(jnp.asarray([1.0, 1.1, 0.9]))

    value, slope = jax.device_get(jax.jit(lambda: values(jax.random.split(KEY, 300)))())
    z = lambda v, truth: (v.mean(0) - truth) / (v.std(0) / 300**0.5)
    assert abs(z(value[:, 0], entropy())) < 4.0
    exact, above, below = z(slope, 0.0)
    assert abs(exact) < 4.0 and above > 6.0 and below < -6.0


def test_levels_are_uniform_and_the_state_is_data_plus_noise():
    """The network gets x0 + sigma_k z and a dropout key; the metrics' times are those of k."""
    law, seen = LAWS["vp"], []

    def network(params, y, cond, dropout_key):
        assert cond is None
        seen.append((params, y, jax.random.key_data(dropout_key)))
        return jnp.zeros((len(y), len(SIGMAS)))

    loss = of_levels(law, network)

    @jax.jit
    def run(image):
        found = loss("p", None, KEY, {"x0": image})
        return found, seen[0][1:]

    (value, metrics), (y, key) = jax.device_get(run(np.full((30_000, 4), 3.0, np.float32)))
    assert seen[0][0] == "p" and np.any(key != jax.random.key_data(KEY)) and y.dtype == np.float32
    np.testing.assert_allclose(value, np.log(6.0), rtol=1e-6)
    assert metrics["loss"] == value
    level = np.argmin(np.abs(metrics["t"][:, None] - np.asarray(times(law))), axis=1)
    counts = np.bincount(level, minlength=6)
    assert np.sum((counts - 5000) ** 2 / 5000) < 20.5  # chi-square, 5 degrees, one in a thousand
    for k, sigma in enumerate(SIGMAS):
        noise = (y[level == k] - 3.0) / sigma
        assert abs(noise.mean()) < 4.0 / noise.size**0.5
        assert abs(noise.var() - 1.0) < 4.0 * (2.0 / noise.size) ** 0.5


def test_a_linear_classifier_learns_the_posterior():
    """A network that is linear in |y|^2 learns the exact posterior, and its most likely level.

    The data are one point at zero in 16 dimensions, for which log p(k | y) is linear in |y|^2.
    """
    dims, law = 16, LAWS["edm"]

    def network(params, y, cond, dropout_key):
        square = jnp.log(jnp.mean(y**2, axis=-1, keepdims=True))
        features = jnp.concatenate([jnp.ones_like(square), square, square**2], axis=-1)
        return features @ params

    loss, tx = of_levels(law, network), optax.adam(0.1)

    def step(carry, key):
        params, state = carry
        grads, _ = jax.grad(loss, has_aux=True)(params, None, key, {"x0": jnp.zeros((512, 16))})
        updates, state = tx.update(grads, state)
        return (optax.apply_updates(params, updates), state), None

    @jax.jit
    def learn():
        params = jnp.zeros((3, len(SIGMAS)))
        carry = params, tx.init(params)
        return jax.lax.scan(step, carry, jax.random.split(KEY, 1000))[0][0]

    params = learn()
    rng = np.random.default_rng(0)
    level = rng.integers(6, size=5000)
    y = SIGMAS[level, None] * rng.standard_normal((5000, dims))
    square = np.sum(y**2, axis=1, keepdims=True)
    truth = -0.5 * square / SIGMAS**2 - dims * np.log(SIGMAS)
    found = np.asarray(jax.jit(network, static_argnums=(2, 3))(params, np.float32(y), None, None))
    agree = np.mean(np.argmax(truth, axis=1) == np.argmax(found, axis=1))
    assert agree > 0.97
