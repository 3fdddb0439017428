"""The mean-reverting loss on pairs (x0, mu): one value for all kinds, and its minimiser."""

import jax
import numpy as np
import pytest

from losses import WEIGHTINGS, denoising_terms
from losses.denoising import Draws
from losses.mean_reverting import mean_reverting_loss, reverting_terms
from sde_lib.mean_reverting import MeanReverting
from sde_lib.mean_reverting_given import given_kinds, to_w

LAW = MeanReverting()
GAIN, SHIFT, SPREAD = 0.8, 0.1, 0.15


def exact_means(x, mu, t, gain=GAIN, shift=SHIFT, spread=SPREAD):
    """Return the exact `(x0, eps)` for `x0 | mu ~ N(gain mu + shift, spread^2)`."""
    a, b, c = (v[:, None] for v in LAW.ends.coeffs(t))
    centre, v = gain * mu + shift, a**2 * spread**2 + c**2
    off = x - a * centre - b * mu
    return centre + a * spread**2 / v * off, c / v * off


def answering(kind, means):
    """Return a network of x and mu whose output, of the given kind, decodes to `means`."""
    entry, share = given_kinds()[kind]

    def network(x, mu, t):
        x0, eps = means(x, mu, t)
        return entry.target(LAW, x0, eps, t) + share(LAW, t)[:, None] * mu

    return network


@pytest.fixture(scope="module")
def terms_of_all():
    """Return `() -> (terms, scales, plain, squares, t)` for pairs (x0, mu).

    terms is `{weighting: {kind: terms}}`, scales the `eps_scale` of each kind, plain the terms of
    `denoising_terms` in w, and squares the expected `(eps - z)^2`.
    """
    rng = np.random.default_rng(0)
    x0, mu, z = rng.standard_normal((3, 16, 3))
    t = np.geomspace(1e-3, 1.0, 16)

    @jax.jit
    def run(x0, mu, z, t):
        terms = {
            weighting: {
                kind: reverting_terms(
                    LAW, answering(kind, exact_means), kind, "t", weighting, x0, mu, t, z
                )
                for kind in given_kinds()
            }
            for weighting in (*WEIGHTINGS, "target")
        }
        scales = {kind: entry.eps_scale(LAW, t) for kind, (entry, _) in given_kinds().items()}
        in_w = lambda w, t: exact_means(w + LAW.ends.coeffs(t).b[:, None] * mu, mu, t)[1]
        draws = Draws(t, 1.0, z)
        plain = {w: denoising_terms(LAW, in_w, "eps", "t", w, 0.5, x0, draws) for w in WEIGHTINGS}
        a, b, c = (v[:, None] for v in LAW.ends.coeffs(t))
        eps = exact_means(a * x0 + b * mu + c * z, mu, t)[1]
        return terms, scales, plain, (eps - z) ** 2

    return lambda: (*jax.device_get(run(x0, mu, z, t)), t)


@pytest.mark.parametrize("weighting", [*WEIGHTINGS, "target"])
def test_all_kinds_have_the_loss_of_the_noise_in_w(weighting, terms_of_all, x64, strict_ranks):
    """All kinds have the terms of `denoising_terms` for the affine law of w, element by element.

    Weighting "target" gives the error of the output; times `eps_scale^2` it is that of the noise.
    """
    terms, scales, plain, squares, t = terms_of_all()
    named = "variance" if weighting == "target" else weighting
    c, g2 = (np.asarray(v)[:, None] for v in (LAW.coeffs(t).c, LAW.g2(t)))
    expected = squares * (1.0 if named == "variance" else g2 / c**2)
    np.testing.assert_allclose(plain[named], expected, rtol=1e-7)
    for kind, found in terms[weighting].items():
        if weighting == "target":
            found = found * scales[kind][:, None] ** 2
        np.testing.assert_allclose(found, expected, rtol=1e-6, err_msg=kind)


def test_network_is_given_the_noisy_state_and_its_mu(x64):
    """The network gets x_t and mu, and the metrics hold the times."""
    mu = np.random.default_rng(0).standard_normal((5, 2))
    seen = {}

    def network(params, x, mu, cond, dropout_key):
        seen.update(x=x, mu=mu, cond=cond)
        return 0.0 * x

    loss = mean_reverting_loss(LAW, network, "eps", "t")

    @jax.jit
    def run(batch):
        value, metrics = loss(None, None, jax.random.key(0), batch)
        t = metrics["t"]
        a, c = (v[:, None] for v in LAW.coeffs(t))
        z = (to_w(LAW, mu, seen["x"], t) - a * 2.0) / c
        return value, t, z, seen

    batch = {"x0": np.full_like(mu, 2.0), "x1": mu}
    value, t, z, given = jax.device_get(run(batch))
    np.testing.assert_array_equal(given["cond"], t)
    np.testing.assert_array_equal(given["mu"], mu)
    # The error of a network with output 0 is the noise itself.
    np.testing.assert_allclose(value, np.mean(z**2), rtol=1e-5)


def test_minimiser_is_the_denoiser_given_mu():
    """The gradient is zero at the pairs' gain, shift and spread, and points back at other values.

    It is compared with its standard error over 400 batches.
    """

    def network(params, x, mu, cond, dropout_key):
        del dropout_key
        return answering("angle", lambda *at: exact_means(*at, *params))(x, mu, cond)

    loss = mean_reverting_loss(LAW, network, "angle", "t", stratify=True)
    true = np.array([GAIN, SHIFT, SPREAD])
    places = np.float32(true + np.concatenate([np.zeros((1, 3)), 0.2 * np.diag(true)]))

    @jax.vmap
    def gradients(key):
        mu_key, data_key, key = jax.random.split(key, 3)
        mu = jax.random.normal(mu_key, (64, 2))
        x0 = GAIN * mu + SHIFT + SPREAD * jax.random.normal(data_key, (64, 2))
        batch = {"x0": x0, "x1": mu}
        return jax.vmap(jax.grad(lambda p: loss(p, None, key, batch)[0]))(places)

    found = np.asarray(jax.jit(lambda: gradients(jax.random.split(jax.random.key(0), 400)))())
    scores = np.mean(found, 0) / np.std(found, 0) * 20
    assert np.all(abs(scores[0]) < 4), scores
    assert np.all(np.diag(scores[1:]) > 6), scores


def test_unknown_names():
    with pytest.raises(ValueError, match="kind is 'edm'"):
        mean_reverting_loss(LAW, lambda *_: None, "edm", "t")
    with pytest.raises(ValueError, match="weighting is 'none'"):
        mean_reverting_loss(LAW, lambda *_: None, "eps", "t", weighting="none")
