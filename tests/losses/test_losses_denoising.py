"""The denoising loss: its value, its minimiser, and agreement with the original implementation."""

from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from any_law import AnyLaw

from losses import LOSSES, TIME_SAMPLING, WEIGHTINGS, denoising_loss, denoising_terms
from losses.denoising import Draws, draw, reduce_terms
from sde_lib import EDM, KINDS, VE, VP, Flow, SubVP, parametrize
from sde_lib.prediction import kinds

LAWS = {"vp": VP(), "subvp": SubVP(), "ve": VE(), "edm": EDM(), "flow": Flow()}
SIGMA_DATA = 0.7
KEY = jax.random.key(0)


def answering(law, kind, means):
    """Return a network of any kind whose output decodes to `means(x, t) -> (x0, eps)`."""
    entry = kinds(SIGMA_DATA)[kind]

    def network(y, t):
        # The network gets x times a function of t, so it first undoes this factor.
        x = y / entry.scale_in(law, jnp.ones_like(y), t)
        x0, eps = means(x, t)
        return entry.target(law, x0, eps, t)

    return network


def some_means(law):
    """Return x0 and eps that are wrong but consistent: `a x0 + c eps = x`."""

    def means(x, t):
        a, c = (v[:, None] for v in law.coeffs(t))
        eps = jnp.sin(2.0 * x / (a + c)) + 0.3 * t[:, None]
        return (x - c * eps) / a, eps

    return means


@pytest.fixture(scope="module")
def terms_of_all_kinds():
    """Return `(which, t, x0, z) -> {(weighting, kind): terms}` and the networks' common `eps`."""

    @jax.jit
    def run(which, t, x0, z):
        law, draws = AnyLaw(LAWS.values(), which), Draws(t, jnp.ones_like(t), z)
        terms = {
            (weighting, kind): denoising_terms(
                law, answering(law, kind, some_means(law)), kind, "t", weighting, SIGMA_DATA, x0,
                draws,
            )
            for weighting in WEIGHTINGS
            for kind in KINDS
        }  # fmt: skip
        return terms, some_means(law)(law.marginal(x0, z, t), t)[1]

    return run


@pytest.mark.parametrize("name", LAWS)
def test_all_kinds_have_the_same_loss(name, terms_of_all_kinds, x64):
    """Networks of every kind that decode to the same (x0, eps) have the same loss.

    Element by element the loss is `w |eps - z|^2`, from t0 on.
    """
    law = LAWS[name]
    x0, z = (np.random.default_rng(seed).standard_normal((16, 3)) for seed in (0, 1))
    t = np.geomspace(law.t0, law.t1, 16)
    found, eps = jax.device_get(terms_of_all_kinds([*LAWS].index(name), t, x0, z))
    c, g2 = (np.asarray(v)[:, None] for v in (law.coeffs(t).c, law.g2(t)))
    # The weight on scores is lambda = c^2 or g^2, and the score of the kernel is -z / c.
    lambda_ = {"variance": c**2, "likelihood": g2}
    for (weighting, kind), terms in found.items():
        expected = lambda_[weighting] * (-eps / c - -z / c) ** 2
        np.testing.assert_allclose(terms, expected, rtol=1e-6, err_msg=f"{weighting} {kind}")


def test_every_loss_is_here():
    known = {"denoising", "discrete", "classification", "noise_level"}
    assert LOSSES.keys() == known, "a new loss needs a minimiser and a value of its own"


def test_reductions():
    terms = np.random.default_rng(0).random((4, 2, 3))
    run = jax.jit(lambda terms: [reduce_terms(terms, mean) for mean in (True, False)])
    mean, half_sum = run(terms)
    np.testing.assert_allclose(mean, terms.mean((1, 2)), rtol=1e-6)
    np.testing.assert_allclose(half_sum, terms.sum((1, 2)) / 2, rtol=1e-6)


def gaussian_means(law, mean, std):
    """Return the exact denoiser of N(mean, std^2), differentiable in mean and std."""

    def means(x, t):
        a, c = (v[:, None] for v in law.coeffs(t))
        v = a**2 * std**2 + c**2
        return mean + a * std**2 / v * (x - a * mean), c / v * (x - a * mean)

    return means


# All kinds have the same loss (see above), so this test needs only one kind besides eps.
CASES = [(name, "eps") for name in LAWS] + [("vp", "edm")]


@pytest.fixture(scope="module")
def gradients():
    """Return `(kind, which, mean, std) -> gradients` by mean and std for 400 batches.

    The gradients are at the given values, and off them. One program serves all laws.
    """

    @partial(jax.jit, static_argnums=0)
    def run(kind, which, mean, std):
        law = AnyLaw(LAWS.values(), which)

        def network(params, x, cond, dropout_key):
            del dropout_key
            return answering(law, kind, gaussian_means(law, *params))(x, cond)

        loss = denoising_loss(law, network, kind, "t", sigma_data=SIGMA_DATA)

        @jax.vmap
        def gradients(key):
            data_key, key = jax.random.split(key)
            batch = {"x0": mean + std * jax.random.normal(data_key, (64, 2))}
            places = jnp.array([[mean, std], [mean + 0.1 * std, std], [mean, 1.1 * std]])
            return jax.vmap(jax.grad(lambda p: loss(p, None, key, batch)[0]))(places)

        return gradients(jax.random.split(KEY, 400))

    return run


@pytest.mark.parametrize("name, kind", CASES)
def test_minimiser_is_the_denoiser_of_the_data(name, kind, gradients):
    """The gradient is zero at the data's mean and std, and points back at other values.

    It is compared with its standard error over 400 batches. EDM's times are mostly far above one,
    so for EDM the data are as large as that noise.
    """
    mean, std = (10.0, 20.0) if name == "edm" else (0.5, 0.8)
    found = np.asarray(gradients(kind, [*LAWS].index(name), mean, std))
    true, off_mean, off_std = np.mean(found, 0) / np.std(found, 0) * 20
    assert np.all(abs(true) < 4), true
    # Off the data's values, the gradient points back to them.
    assert off_mean[0] > 6 and off_std[1] > 6, (off_mean, off_std)


# For VE, g^2 / c^2 is constant, so importance sampling cannot reduce the variance.
SAMPLED = {name: type(LAWS[name])(t0=1e-3) for name in ("vp", "subvp", "ve")}
STD, DIMS = 0.8, 3


@pytest.fixture(scope="module")
def losses_at_the_optimum():
    """Return `which -> {(weighting, time_sampling, stratify): (values, metrics)}` of 200 batches.

    Losses with stratified times are means over the dimensions, the others half of the sums.
    """

    @jax.jit
    def run(which):
        law = AnyLaw(SAMPLED.values(), which)

        def network(params, x, cond, dropout_key):
            return gaussian_means(law, 0.0, STD)(x, cond)[1]

        def values(weighting, time_sampling, stratify):
            loss = denoising_loss(
                law, network, "eps", "t", weighting=weighting, time_sampling=time_sampling,
                stratify=stratify, reduce_mean=stratify,
            )  # fmt: skip

            def one(key):
                data_key, key = jax.random.split(key)
                x = STD * jax.random.normal(data_key, (512, DIMS))
                value, metrics = loss(None, None, key, {"x0": x})
                return value, metrics["loss"]

            return jax.vmap(one)(jax.random.split(KEY, 200))

        ways = [("uniform", False), ("uniform", True)]
        ways += [(other, other != "importance") for other in TIME_SAMPLING if other != "uniform"]
        return {(w, *way): values(w, *way) for w in WEIGHTINGS for way in ways}

    return run


@pytest.mark.parametrize("name", SAMPLED)
def test_least_value_in_closed_form(name, losses_at_the_optimum):
    """At the optimum the loss is the mean of `w Var(z | x_t) = w a^2 s^2 / (a^2 s^2 + c^2)`.

    The mean is over uniform t for every way to draw times; half sums have half of it per dimension.
    With t0 below 1e-3, the likelihood weighting of a uniform t would have such a heavy tail that
    its standard error could not be trusted.
    """
    law = SAMPLED[name]
    # The integral is over log t, in which the integrand is smooth.
    t = np.geomspace(law.t0, law.t1, 4001)
    (a, c), g2 = (jax.tree.map(np.float64, v) for v in (law.coeffs(t), law.g2(t)))
    variance = a**2 * STD**2 / (a**2 * STD**2 + c**2)
    weights = {"variance": 1.0, "likelihood": g2 / c**2}
    mean = lambda density: np.trapezoid(density * t, np.log(t)) / (law.t1 - law.t0)

    spread = {}
    found = jax.device_get(losses_at_the_optimum([*SAMPLED].index(name)))
    for (weighting, time_sampling, stratify), (value, metric) in found.items():
        value = np.asarray(value, np.float64) * (1.0 if stratify else 2.0 / DIMS)
        truth = mean(weights[weighting] * variance)
        case = weighting, time_sampling, stratify
        assert abs(value.mean() - truth) < 4 * value.std() / 200**0.5, case
        spread[case] = value.std()
        np.testing.assert_allclose(metric * (1.0 if stratify else 2.0 / DIMS), value, rtol=1e-6)
    if name != "ve":
        evened = spread["likelihood", "importance", False]
        assert evened < 0.5 * spread["likelihood", "uniform", False]
    for weighting in WEIGHTINGS:
        assert spread[weighting, "uniform", True] < spread[weighting, "uniform", False]


def test_loss_passes_on_what_the_network_needs():
    """The network gets the parameters and a dropout key, which is not that of the draws.

    The dropout key is another one in each call.
    """
    seen = []

    def network(params, x, cond, dropout_key):
        seen.append((params, jax.random.key_data(dropout_key)))
        return x

    loss = denoising_loss(LAWS["vp"], network, "eps", "t")

    @jax.jit
    def run(key):
        value, _ = loss("p", None, key, {"x0": jnp.zeros((4, 2))})
        return value, seen[0][1]

    keys = KEY, jax.random.key(1), KEY
    (first, key), (second, other), (again, _) = (jax.device_get(run(k)) for k in keys)
    assert seen[0][0] == "p" and np.any(key != other) and np.any(key != jax.random.key_data(KEY))
    assert first.shape == () and first != second and first == again


def test_draws_are_what_they_say():
    """Times are float32 in [t0, t1]; noise has the data's shape and is independent of the times."""
    law, x0 = VP(), np.zeros((4096, 1), np.float32)
    ways = ("uniform", False), ("uniform_lam", True)
    for t, weight, z in jax.device_get(jax.jit(lambda: [draw(law, KEY, x0, *w) for w in ways])()):
        assert t.shape == weight.shape == (4096,) and z.shape == x0.shape
        assert t.dtype == weight.dtype == np.float32
        assert np.all((t >= law.t0 * 0.999) & (t <= law.t1)) and np.all(weight > 0)
        assert abs(np.corrcoef(t, z[:, 0])[0, 1]) < 4 / 64


GOLDENS = np.load(Path(__file__).parent / "goldens" / "losses.npz")


def original_network(name, a, b):
    """Return the linear model of the reference: a per channel, b a scalar."""

    def network(x, label):
        s = label[:, None, None, None]
        raw = a * x + b * jnp.log1p(s)
        return raw / (0.25 + s**2) if name == "ve" else raw

    return network


# The original reads a VP-type output as noise and a VE-type output as the score.
READ_AS = {"vp": ("eps", "label"), "subvp": ("eps", "label"), "ve": ("score", "sigma")}


@pytest.mark.parametrize("name", READ_AS)
def test_original_losses_and_gradients(name):
    """Losses and gradients are the original's, for both weightings and both reductions."""
    law, data = LAWS[name], GOLDENS["data"]
    t, z, a, b = (GOLDENS[f"{name}/{key}"] for key in ("t", "z", "a", "b"))
    kind, conditioning = READ_AS[name]

    def loss(params, weighting, reduce_mean):
        terms = denoising_terms(
            law, original_network(name, *params), kind, conditioning, weighting, SIGMA_DATA,
            data, Draws(t, jnp.ones_like(t), z),
        )  # fmt: skip
        return jnp.mean(reduce_terms(terms, reduce_mean))

    @jax.jit
    def run(params):
        cases = [(weighting, mean) for weighting in WEIGHTINGS for mean in (False, True)]
        return {case: jax.value_and_grad(loss)(params, *case) for case in cases}

    for (weighting, mean), (value, (grad_a, grad_b)) in run((a, b)).items():
        case = f"likelihood_weighting_{weighting == 'likelihood'}/reduce_mean_{mean}".lower()
        golden = [GOLDENS[f"{name}/{case}/{key}"] for key in ("loss", "grad_a", "grad_b")]
        np.testing.assert_allclose(value, golden[0], rtol=1e-5)
        np.testing.assert_allclose(grad_a, golden[1], rtol=2e-5)
        np.testing.assert_allclose(grad_b, golden[2], rtol=2e-5)
    np.testing.assert_allclose(law.marginal(data, z, t), GOLDENS[f"{name}/perturbed"], rtol=1e-4)


@pytest.mark.parametrize("name", READ_AS)
def test_original_score(name):
    """Label and score are the original's, at t from 1e-5 to 1.

    The original's std has the rounding error of 1 - exp in float32.
    """
    law, x, t = LAWS[name], GOLDENS["score_fn/x"], GOLDENS["score_fn/t"]
    get = lambda key: GOLDENS[f"score_fn/{name}/{key}"]
    kind, conditioning = READ_AS[name]

    @jax.jit
    def run(x, t):
        labels = []

        def network(x, label):
            labels.append(label)
            return original_network(name, get("a"), get("b"))(x, label)

        return parametrize(kind, law, network, conditioning)(x, t).score, labels[0]

    score, labels = jax.device_get(run(x, t))
    np.testing.assert_allclose(labels, get("continuous/labels"), rtol=1e-5)
    B = 0.1 * np.float64(t) + 0.5 * 19.9 * np.float64(t) ** 2
    rounding = 1e-5 + (0.0 if name == "ve" else 6e-8 / -np.expm1(-B))
    expected = get("continuous/score")
    error = np.max(abs(score - expected), axis=(1, 2, 3)) / np.max(abs(expected), axis=(1, 2, 3))
    assert np.all(error < rounding)
