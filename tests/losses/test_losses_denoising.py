"""The denoising loss: its value, its minimiser, and parity with the original implementation."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from losses import LOSSES, TIME_SAMPLING, WEIGHTINGS, denoising_loss, denoising_terms
from losses.denoising import Draws, draw, reduce_terms
from sde_lib import EDM, KINDS, VE, VP, Flow, SubVP, parametrize
from sde_lib.prediction import kinds

LAWS = {"vp": VP(), "subvp": SubVP(), "ve": VE(), "edm": EDM(), "flow": Flow()}
SIGMA_DATA = 0.7
KEY = jax.random.key(0)


def answering(law, kind, means):
    """A network whose output, whatever it stands for, means `means(x, t) -> (x0, eps)`."""
    entry = kinds(SIGMA_DATA)[kind]

    def network(y, t):
        # The network is given x up to a factor of t; undo it.
        x = y / entry.scale_in(law, jnp.ones_like(y), t)
        x0, eps = means(x, t)
        return entry.target(law, x0, eps, t)

    return network


def some_means(law):
    """Neither right nor trivial, and consistent: `a x0 + c eps = x`."""

    def means(x, t):
        a, _, c = (v[:, None] for v in law.coeffs(t))
        eps = jnp.sin(2.0 * x / (a + c)) + 0.3 * t[:, None]
        return (x - c * eps) / a, eps

    return means


@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize("name", LAWS)
def test_all_kinds_have_the_same_loss(name, weighting, x64):
    """Networks of every kind that mean the same (x0, eps): element by element one value,
    `w |eps - z|^2`, from t0 on."""
    law = LAWS[name]
    x0 = jnp.asarray(np.random.default_rng(0).standard_normal((16, 3)))
    z = jnp.asarray(np.random.default_rng(1).standard_normal((16, 3)))
    t = jnp.asarray(np.geomspace(law.t0, law.t1, 16))

    @jax.jit
    def all_terms():
        draws = Draws(t, jnp.ones(16), z)
        return [
            denoising_terms(
                law, answering(law, kind, some_means(law)), kind, "t", weighting, SIGMA_DATA, x0,
                draws,
            )
            for kind in KINDS
        ]  # fmt: skip

    c, g2 = law.coeffs(t).c[:, None], law.g2(t)[:, None]
    x = law.marginal(x0, z, t)
    eps = some_means(law)(x, t)[1]
    # lambda = c^2 or g^2 on scores, that of the kernel being -z / c
    lambda_ = {"variance": c**2, "likelihood": g2}[weighting]
    expected = lambda_ * (-eps / c - -z / c) ** 2
    for kind, terms in zip(KINDS, all_terms()):
        np.testing.assert_allclose(terms, expected, rtol=1e-6, err_msg=kind)


def test_every_loss_is_here():
    known = {"denoising", "classification"}
    assert LOSSES.keys() == known, "a new loss needs a minimiser and a value of its own"


def test_reductions():
    terms = jnp.asarray(np.random.default_rng(0).random((4, 2, 3)))
    np.testing.assert_allclose(reduce_terms(terms, True), terms.mean((1, 2)), rtol=1e-6)
    np.testing.assert_allclose(reduce_terms(terms, False), terms.sum((1, 2)) / 2, rtol=1e-6)


def gaussian_means(law, mean, std):
    """The exact denoiser of N(mean, std^2), as a function of the two: differentiable in them."""

    def means(x, t):
        a, _, c = (v[:, None] for v in law.coeffs(t))
        v = a**2 * std**2 + c**2
        return mean + a * std**2 / v * (x - a * mean), c / v * (x - a * mean)

    return means


# The kinds have one loss, element by element (above), so one besides eps will do here.
CASES = [(name, "eps") for name in LAWS] + [("vp", "edm")]


@pytest.mark.parametrize("name, kind", CASES)
def test_minimiser_is_the_denoiser_of_the_data(name, kind):
    """At the data's own mean and std the gradient is zero in expectation, judged by its standard
    error over 400 batches; at others it is not. On EDM, whose times are mostly far above one, the
    data have the size of such noise."""
    law, (mean, std) = LAWS[name], (10.0, 20.0) if name == "edm" else (0.5, 0.8)

    def network(params, x, cond, dropout_key):
        del dropout_key
        return answering(law, kind, gaussian_means(law, *params))(x, cond)

    loss = denoising_loss(law, network, kind, "t", sigma_data=SIGMA_DATA)

    @jax.jit
    @jax.vmap
    def gradients(key):
        data_key, key = jax.random.split(key)
        batch = {"image": mean + std * jax.random.normal(data_key, (64, 2))}
        places = jnp.array([[mean, std], [mean + 0.1 * std, std], [mean, 1.1 * std]])
        return jax.vmap(jax.grad(lambda p: loss(p, None, key, batch)[0]))(places)

    found = gradients(jax.random.split(KEY, 400))
    true, off_mean, off_std = np.mean(found, 0) / np.std(found, 0) * 20
    assert np.all(abs(true) < 4), true
    # and it points back
    assert off_mean[0] > 6 and off_std[1] > 6, (off_mean, off_std)


@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize("name", ["vp", "subvp", "ve"])
def test_least_value_in_closed_form(name, weighting):
    """At the optimum the loss is the mean of `w Var(z | x_t) = w a^2 s^2 / (a^2 s^2 + c^2)`, an
    integral over uniform t, however times are drawn; half as much per dimension for half sums.

    With t0 = 1e-3, behind which the likelihood weighting of a uniform t has too heavy a tail for
    its standard error to be trusted.
    """
    law, std, dims = type(LAWS[name])(t0=1e-3), 0.8, 3

    def network(params, x, cond, dropout_key):
        return gaussian_means(law, 0.0, std)(x, cond)[1]

    # in log t, where the integrand is smooth
    t = np.geomspace(law.t0, law.t1, 4001)
    (a, _, c), g2 = law.coeffs(jnp.asarray(t)), law.g2(jnp.asarray(t))
    weight = {"variance": 1.0, "likelihood": g2 / c**2}[weighting]
    density = np.asarray(weight * a**2 * std**2 / (a**2 * std**2 + c**2), np.float64)
    truth = np.trapezoid(density * t, np.log(t)) / (law.t1 - law.t0)

    @jax.jit
    def values(keys):
        out = {}
        for time_sampling in TIME_SAMPLING:
            for stratify in (False, True) if time_sampling == "uniform" else (name == "ve",):
                loss = denoising_loss(
                    law, network, "eps", "t", weighting=weighting, time_sampling=time_sampling,
                    stratify=stratify, reduce_mean=stratify,
                )  # fmt: skip

                def one(key, loss=loss):
                    data_key, key = jax.random.split(key)
                    x = std * jax.random.normal(data_key, (512, dims))
                    value, metrics = loss(None, None, key, {"image": x})
                    return value, metrics["loss"]

                out[time_sampling, stratify] = jax.vmap(one)(keys)
        return out

    spread = {}
    for (time_sampling, stratify), (value, metric) in values(jax.random.split(KEY, 200)).items():
        value = np.asarray(value, np.float64) * (1.0 if stratify else 2.0 / dims)
        assert abs(value.mean() - truth) < 4 * value.std() / 200**0.5, time_sampling
        spread[time_sampling, stratify] = value.std()
        np.testing.assert_allclose(metric * (1.0 if stratify else 2.0 / dims), value, rtol=1e-6)
    # VE's g^2 / c^2 is constant, so there is nothing to even out
    if weighting == "likelihood" and name != "ve":
        assert spread["importance", False] < 0.5 * spread["uniform", False]
    assert spread["uniform", True] < spread["uniform", False]


def test_loss_passes_on_what_the_network_needs():
    """Parameters and a dropout key, which is neither that of the draws nor the same each time."""
    seen = []

    def network(params, x, cond, dropout_key):
        seen.append((params, dropout_key))
        return x

    loss = denoising_loss(LAWS["vp"], network, "eps", "t")
    batch = {"image": jnp.zeros((4, 2))}
    first, second = loss("p", None, KEY, batch), loss("p", None, jax.random.key(1), batch)
    assert seen[0][0] == "p" and seen[0][1] != seen[1][1] and seen[0][1] != KEY
    assert first[0].shape == () and first[0] != second[0]
    assert loss("p", None, KEY, batch)[0] == first[0]


def test_draws_are_what_they_say():
    """Times in float32 within [t0, t1], noise like the data and independent of the times."""
    law, x0 = VP(), jnp.zeros((4096, 1))
    for time_sampling, stratify in (("uniform", False), ("uniform_lam", True)):
        t, weight, z = jax.jit(lambda key, *how: draw(law, key, x0, *how), static_argnums=(1, 2))(
            KEY, time_sampling, stratify
        )
        assert t.shape == weight.shape == (4096,) and z.shape == x0.shape
        assert t.dtype == weight.dtype == jnp.float32
        assert np.all((t >= law.t0 * 0.999) & (t <= law.t1)) and np.all(weight > 0)
        assert abs(np.corrcoef(t, z[:, 0])[0, 1]) < 4 / 64


GOLDENS = np.load(Path(__file__).parent / "goldens" / "losses.npz")


def original_network(name, a, b):
    """The linear model that the reference was made with: per channel a, scalar b."""

    def network(x, label):
        s = label[:, None, None, None]
        raw = a * x + b * jnp.log1p(s)
        return raw / (0.25 + s**2) if name == "ve" else raw

    return network


# The original reads a VP-type output as noise and a VE-type output as the score.
READ_AS = {"vp": ("eps", "label"), "subvp": ("eps", "label"), "ve": ("score", "sigma")}


@pytest.mark.parametrize("reduce_mean", [False, True])
@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize("name", READ_AS)
def test_original_losses_and_gradients(name, weighting, reduce_mean):
    law, data = LAWS[name], GOLDENS["data"]
    t, z, a, b = (jnp.asarray(GOLDENS[f"{name}/{key}"]) for key in ("t", "z", "a", "b"))
    kind, conditioning = READ_AS[name]

    def loss(params):
        terms = denoising_terms(
            law, original_network(name, *params), kind, conditioning, weighting, SIGMA_DATA,
            data, Draws(t, jnp.ones_like(t), z),
        )  # fmt: skip
        return jnp.mean(reduce_terms(terms, reduce_mean))

    value, (grad_a, grad_b) = jax.jit(jax.value_and_grad(loss))((a, b))
    case = f"{name}/likelihood_weighting_{weighting == 'likelihood'}/reduce_mean_{reduce_mean}"
    get = lambda key: GOLDENS[f"{case.lower()}/{key}"]
    np.testing.assert_allclose(law.marginal(data, z, t), GOLDENS[f"{name}/perturbed"], rtol=1e-4)
    np.testing.assert_allclose(value, get("loss"), rtol=1e-5)
    np.testing.assert_allclose(grad_a, get("grad_a"), rtol=2e-5)
    np.testing.assert_allclose(grad_b, get("grad_b"), rtol=2e-5)


@pytest.mark.parametrize("name", READ_AS)
def test_original_score(name):
    """Label and score at t from 1e-5 to 1. The original's std is off by a rounding of 1 - exp."""
    law, x, t = LAWS[name], GOLDENS["score_fn/x"], jnp.asarray(GOLDENS["score_fn/t"])
    get = lambda key: GOLDENS[f"score_fn/{name}/{key}"]
    kind, conditioning = READ_AS[name]
    labels = []

    def network(x, label):
        labels.append(label)
        return original_network(name, get("a"), get("b"))(x, label)

    score = parametrize(kind, law, network, conditioning)(x, t).score
    np.testing.assert_allclose(labels[0], get("continuous/labels"), rtol=1e-5)
    B = 0.1 * np.asarray(t, np.float64) + 0.5 * 19.9 * np.asarray(t, np.float64) ** 2
    rounding = 1e-5 + (0.0 if name == "ve" else 6e-8 / -np.expm1(-B))
    expected = get("continuous/score")
    error = np.max(abs(score - expected), axis=(1, 2, 3)) / np.max(abs(expected), axis=(1, 2, 3))
    assert np.all(error < rounding)
