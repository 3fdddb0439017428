"""The loss of a classifier against the posterior of classes that are Gaussians."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closed_form import Mixture, _columns

from losses import classification_loss, drop_labels
from losses.labels import told
from sde_lib import EDM, VE, VP

LAWS = {"vp": VP(), "ve": VE(), "edm": EDM()}
DATA = Mixture(np.array([0.3, 0.7]), np.array([[1.0, -0.5], [-0.6, 0.4]]), np.array([0.4, 0.7]))
N, STD = 200_000, 0.8


def batch():
    rng = np.random.default_rng(0)
    label = rng.choice(2, N, p=DATA.weights)
    x = DATA.means[label] + DATA.stds[label, None] * rng.standard_normal((N, 2))
    return {"image": jnp.asarray(x, jnp.float32), "label": jnp.asarray(label)}


def exact(path):
    """The network whose logits are exact at (temperature, bias) = (1, 0)."""

    def network(params, x, sigma, dropout_key):
        # It is handed x at unit size; undo that by what the law has at this noise level.
        t = path.t_of_lam(-jnp.log(sigma))
        a, _, c = path.coeffs(t)
        state = x * jnp.sqrt((STD * a) ** 2 + c**2)[:, None]
        logits = DATA._components(*_columns(path, state, t)[:3])[0]
        return params["temperature"] * logits + params["bias"] * jnp.array([1.0, 0.0])

    return network


@pytest.mark.parametrize("law", LAWS)
def test_it_is_least_at_the_posterior(law):
    loss = classification_loss(LAWS[law], exact(LAWS[law]), sigma_data=STD)
    data = batch()
    call = jax.jit(
        jax.value_and_grad(lambda p: loss(p, None, jax.random.key(1), data), has_aux=True)
    )
    params = {"temperature": jnp.asarray(1.0), "bias": jnp.asarray(0.0)}
    (value, metrics), slope = call(params)
    assert metrics["loss"] == value
    for name, error in (("bias", 0.5), ("temperature", 5.0)):
        assert abs(slope[name]) < 4 * error * N**-0.5
        for shift in (-0.3, 0.3):
            (other, _), _ = call({**params, name: params[name] + shift})
            assert other > value + 1e-3
    # Between all and nothing, and no better than the prior where noise is all.
    assert DATA.weights.max() < metrics["accuracy"] < 1.0
    noisy = np.asarray(metrics["t"]) > 0.99 * LAWS[law].t1
    assert noisy.any() and 0.0 < value < -np.sum(DATA.weights * np.log(DATA.weights))


def test_value_is_the_cross_entropy():
    """Of logits that are constant, whatever the noise."""
    constant = lambda params, x, sigma, key: jnp.broadcast_to(
        jnp.log(jnp.array([0.1, 0.9])), x.shape
    )
    data = batch()
    value, metrics = classification_loss(VP(), constant)(None, None, jax.random.key(0), data)
    share = np.mean(data["label"])
    np.testing.assert_allclose(value, -(1 - share) * np.log(0.1) - share * np.log(0.9), rtol=1e-4)
    np.testing.assert_allclose(metrics["accuracy"], share, rtol=1e-5)


def test_labels_are_left_out_at_a_rate():
    label = jnp.arange(10).repeat(5000)
    left = drop_labels(jax.random.key(0), label, 10, 0.2)
    gone = np.asarray(left == 10)
    assert gone.mean() == pytest.approx(0.2, abs=4 * (0.16 / gone.size) ** 0.5)
    np.testing.assert_array_equal(left[~gone], label[~gone])
    # As often of each class.
    each = gone.reshape(10, -1).mean(axis=1)
    assert np.ptp(each) < 8 * (0.16 / 5000) ** 0.5
    np.testing.assert_array_equal(drop_labels(jax.random.key(0), label, 10, 0.0), label)


def test_what_a_network_is_told():
    assert told({"image": 1, "index": 2}) == {}
    assert told({"image": 1, "label": 3}) == {"label": 3}
