"""DDPM's and SMLD's losses: value, labels, and agreement with the original implementation."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from losses import discrete_loss
from losses.denoising import Draws, reduce_terms
from losses.discrete import draw_levels, level_terms
from sde_lib import VE, VP, Flow, SubVP
from sde_lib.prediction import kinds
from sde_lib.tables import make_tables

GOLDENS = np.load(Path(__file__).parent / "goldens" / "losses.npz")
KEY = jax.random.key(0)
STD, N = 0.8, 30
# Law, prediction kind and conditioning of the original's losses.
CASES = {"ddpm": (VP(), "eps", "step"), "smld": (VE(), "score", "level")}
cases = pytest.mark.parametrize("case", CASES)


def levels(case):
    """Return a and c of each level by the papers, in the order of the network's labels."""
    if case == "ddpm":
        a2 = np.cumprod(1 - np.linspace(0.1, 20.0, N) / N)
        return np.sqrt(a2), np.sqrt(1 - a2)
    return np.ones(N), np.geomspace(50.0, 0.01, N)


def denoiser(case, kind):
    """Return a network with the exact conditional mean for data N(0, STD^2)."""
    a, c = (np.float32(v) for v in levels(case))

    def network(params, x, label, dropout_key):
        assert label.dtype == jnp.float32
        i = label.astype(int)
        a_i, c_i = (jnp.asarray(v)[i][:, None] for v in (a, c))
        v = a_i**2 * STD**2 + c_i**2
        return -x / v if kind == "score" else c_i / v * x if kind == "eps" else a_i * STD**2 / v * x

    return network


@pytest.mark.parametrize(
    "case, kind, reduce_mean",
    [("ddpm", "eps", True), ("ddpm", "x0", False), ("smld", "score", False)],
)
def test_least_value_in_closed_form(case, kind, reduce_mean):
    """At the optimum the loss is the mean over the N levels of `Var(z | x_i)`.

    This variance is `a^2 s^2 / (a^2 s^2 + c^2)`. All levels are equally likely, and their errors of
    the noise have equal weights.
    """
    law, _, conditioning = CASES[case]
    dims = 3
    loss = discrete_loss(
        law, denoiser(case, kind), kind, conditioning, num_scales=N, reduce_mean=reduce_mean
    )

    @jax.vmap
    def values(key):
        data_key, key = jax.random.split(key)
        value, metrics = loss(
            None, None, key, {"x0": STD * jax.random.normal(data_key, (512, dims))}
        )
        return value, metrics["loss"]

    value, metric = (
        np.asarray(v, np.float64) for v in jax.jit(lambda: values(jax.random.split(KEY, 200)))()
    )
    np.testing.assert_array_equal(value, metric)
    a, c = levels(case)
    truth = np.mean(a**2 * STD**2 / (a**2 * STD**2 + c**2)) * (1 if reduce_mean else dims / 2)
    assert abs(value.mean() - truth) < 4 * value.std() / 200**0.5
    assert 4 * value.std() / 200**0.5 < 0.03 * truth


@cases
def test_levels_are_uniform_and_told_as_the_original_tells_them(case):
    """All N levels are equally likely and independent of the noise; `t = i / (N - 1)`."""
    law, kind, conditioning = CASES[case]
    tables, x0 = make_tables(law, N), np.zeros((60_000, 1), np.float32)
    told = []

    def network(params, x, label, dropout_key):
        told.append((x, label))
        return x

    @jax.jit
    def run(key):
        batch = {"x0": jnp.zeros((64, 200))}
        loss = discrete_loss(law, network, kind, conditioning, num_scales=N)
        _, metrics = loss(None, None, key, batch)
        return draw_levels(tables, key, x0), told[0], metrics["t"]

    (i, weight, z), (x, label), t = jax.device_get(run(KEY))
    counts = np.bincount(i, minlength=N)
    chi2 = np.sum((counts - 2000) ** 2 / 2000)
    assert len(counts) == N and abs(chi2 - (N - 1)) < 4 * (2 * (N - 1)) ** 0.5
    assert abs(np.corrcoef(i, z[:, 0])[0, 1]) < 4 / 60_000**0.5 and np.all(weight == 1.0)
    np.testing.assert_allclose(label / (N - 1), t if case == "ddpm" else 1.0 - t, atol=1e-6)
    # The standard deviation of x over 200 dimensions is the c of its level.
    size = levels(case)[1][label.astype(int)]
    assert np.all(abs(np.std(x, axis=1) / size - 1.0) < 5 / 400**0.5)


def test_loss_passes_on_what_the_network_needs():
    """The network gets the parameters, and another dropout key in each call."""
    seen = []

    def network(params, x, label, dropout_key):
        seen.append((params, jax.random.key_data(dropout_key)))
        return x

    loss = discrete_loss(VP(), network, "eps", "step", num_scales=N)

    @jax.jit
    def run(key):
        value, _ = loss("p", None, key, {"x0": jnp.zeros((4, 2))})
        return value, seen[0][1]

    keys = KEY, KEY, jax.random.key(1)
    (first, key), (again, same), (_, other) = (jax.device_get(run(k)) for k in keys)
    assert seen[0][0] == "p" and np.all(key == same) and np.any(key != other)
    assert np.any(key != jax.random.key_data(KEY))
    assert first == again and first.shape == ()


def original_network(case, a, b):
    """Return the linear model of the reference: a per channel, b a scalar."""

    def network(x, label):
        s = label[:, None, None, None]
        if case == "ddpm":
            return a * x + b * jnp.log1p(s)
        s = 50.0 * (0.01 / 50.0) ** (s / 231)
        return (a * x + b * jnp.log1p(s)) / (0.25 + s**2)

    return network


@cases
def test_original_losses_and_gradients(case):
    """Losses and gradients are the original's, for both reductions."""
    law, kind, conditioning = CASES[case]
    tables = make_tables(law, {"ddpm": 1000, "smld": 232}[case])
    data, labels = GOLDENS["data"], GOLDENS[f"{case}/labels"]
    z, a, b = (GOLDENS[f"{case}/{key}"] for key in ("z", "a", "b"))
    i = labels if case == "ddpm" else 231 - labels

    def loss(params, reduce_mean):
        network = original_network(case, *params)
        draws = Draws(jnp.asarray(i), None, z)
        terms = level_terms(tables, network, kind, conditioning, 0.5, data, draws)
        return jnp.mean(reduce_terms(terms, reduce_mean))

    @jax.jit
    def run(params):
        found = [jax.value_and_grad(loss)(params, mean) for mean in (False, True)]
        return found, tables.marginal(data, z, jnp.asarray(i))

    found, ours = jax.device_get(run((a, b)))
    for mean, (value, (grad_a, grad_b)) in zip((False, True), found):
        golden = [
            GOLDENS[f"{case}/reduce_mean_{mean}/{key}".lower()]
            for key in ("loss", "grad_a", "grad_b")
        ]
        np.testing.assert_allclose(value, golden[0], rtol=1e-6)
        np.testing.assert_allclose(grad_a, golden[1], rtol=2e-6)
        np.testing.assert_allclose(grad_b, golden[2], rtol=2e-6)
    perturbed = GOLDENS[f"{case}/perturbed"]
    assert np.max(abs(ours - perturbed)) < 1e-6 * np.max(abs(perturbed))


def test_every_kind_but_velocity_has_one_loss():
    """Networks that decode to the same noise have the same loss, element by element."""
    tables, x0 = make_tables(VP(), N), np.ones((N, 2), np.float32)
    z = np.tile(np.array([0.5, -1.0], np.float32), (N, 1))

    @jax.jit
    def run():
        i, found = jnp.arange(N), {}
        x = tables.marginal(x0, z, i)
        a, c = (v[:, None] for v in tables.coeffs(i))
        eps = jnp.sin(x)
        for kind, entry in kinds(0.7).items():
            if kind != "velocity":
                answer = entry.target(tables, (x - c * eps) / a, eps, i)
                network = lambda x, label, answer=answer: answer
                terms = level_terms(tables, network, kind, "step", 0.7, x0, Draws(i, None, z))
                found[kind] = terms
        return found, eps

    found, eps = jax.device_get(run())
    for kind, terms in found.items():
        # At the last levels a is only 0.003, and x0 is computed as a difference.
        np.testing.assert_allclose(terms, (eps - z) ** 2, rtol=1e-3, atol=1e-5, err_msg=kind)


def test_refusals():
    with pytest.raises(ValueError, match="SubVP has no chain"):
        discrete_loss(SubVP(), None, "eps", "step", num_scales=N)
    with pytest.raises(ValueError, match="Flow has no chain"):
        discrete_loss(Flow(t1=1.0), None, "eps", "step", num_scales=N)
    with pytest.raises(ValueError, match="'label'; a network trained on discrete levels"):
        discrete_loss(VP(), None, "eps", "label", num_scales=N)
    with pytest.raises(ValueError, match="'velocity', a derivative in time"):
        discrete_loss(VP(), None, "velocity", "step", num_scales=N)
