"""The loss of a classifier of noisy states, for classes that are Gaussians."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from any_law import AnyLaw
from closed_form import Mixture, _columns

from losses import classification_loss, drop_labels
from losses.labels import told
from sde_lib import EDM, VE, VP

LAWS = {"vp": VP(), "ve": VE(), "edm": EDM()}
DATA = Mixture(np.array([0.3, 0.7]), np.array([[1.0, -0.5], [-0.6, 0.4]]), np.array([0.4, 0.7]))
N, STD = 50_000, 0.8


def batch():
    rng = np.random.default_rng(0)
    label = rng.choice(2, N, p=DATA.weights)
    x = DATA.means[label] + DATA.stds[label, None] * rng.standard_normal((N, 2))
    return {"x0": np.float32(x), "cond": label.astype(np.int32)}


def exact(path):
    """Return a network whose logits are exact at (temperature, bias) = (1, 0)."""

    def network(params, x, sigma, dropout_key):
        # The network gets x scaled to unit size, so it first undoes this scaling.
        t = path.t_of_lam(-jnp.log(sigma))
        a, c = path.coeffs(t)
        state = x * jnp.sqrt((STD * a) ** 2 + c**2)[:, None]
        logits = DATA._components(*_columns(path, state, t)[:3])[0]
        return params["temperature"] * logits + params["bias"] * jnp.array([1.0, 0.0])

    return network


@pytest.fixture(scope="module")
def at_and_around():
    """Return `(which, data) -> ((values, metrics), gradients)`, one program for all laws.

    They are at the posterior, and at values of the bias and of the temperature 0.3 below and above.
    """
    places = np.array([[1.0, 0.0], [1.0, -0.3], [1.0, 0.3], [0.7, 0.0], [1.3, 0.0]], np.float32)

    @jax.jit
    def run(which, data):
        law = AnyLaw(LAWS.values(), which)
        loss = classification_loss(law, exact(law), sigma_data=STD)
        named = lambda place: {"temperature": place[0], "bias": place[1]}
        value = lambda place: loss(named(place), None, jax.random.key(1), data)
        return jax.lax.map(jax.value_and_grad(value, has_aux=True), places)

    return run


@pytest.mark.parametrize("law", LAWS)
def test_it_is_least_at_the_posterior(law, at_and_around):
    (value, metrics), slope = jax.device_get(at_and_around([*LAWS].index(law), batch()))
    np.testing.assert_array_equal(metrics["loss"], value)
    # Gradients by the temperature and by the bias are zero.
    assert np.all(abs(slope[0]) < 4 * np.array([5.0, 0.5]) * N**-0.5)
    assert np.all(value[1:] > value[0] + 1e-3)
    # The accuracy is between that of the larger class and 1, and the loss below the prior's.
    assert DATA.weights.max() < metrics["accuracy"][0] < 1.0
    noisy = metrics["t"][0] > 0.99 * LAWS[law].t1
    assert noisy.any() and 0.0 < value[0] < -np.sum(DATA.weights * np.log(DATA.weights))


def test_value_is_the_cross_entropy():
    """With constant logits the loss is their cross-entropy with the labels, for any noise."""
    logits = np.log(np.array([0.1, 0.9], np.float32))
    constant = lambda params, x, sigma, key: jnp.broadcast_to(logits, x.shape)
    data, loss = batch(), classification_loss(VP(), constant)
    value, metrics = jax.jit(lambda data: loss(None, None, jax.random.key(0), data))(data)
    share = np.mean(data["cond"])
    np.testing.assert_allclose(value, -(1 - share) * np.log(0.1) - share * np.log(0.9), rtol=1e-4)
    np.testing.assert_allclose(metrics["accuracy"], share, rtol=1e-5)


def test_labels_are_left_out_at_a_rate():
    label = np.arange(10).repeat(5000)
    drop = jax.jit(lambda rate: drop_labels(jax.random.key(0), label, 10, rate))
    left = np.asarray(drop(0.2))
    gone = left == 10
    assert gone.mean() == pytest.approx(0.2, abs=4 * (0.16 / gone.size) ** 0.5)
    np.testing.assert_array_equal(left[~gone], label[~gone])
    # Each class loses labels at the same rate.
    each = gone.reshape(10, -1).mean(axis=1)
    assert np.ptp(each) < 8 * (0.16 / 5000) ** 0.5
    np.testing.assert_array_equal(drop(0.0), label)


def test_what_a_network_is_told():
    assert told({"x0": 1, "index": 2}) == {}
    assert told({"x0": 1, "cond": 3}) == {"label": 3}
