"""The laws as processes: forward simulation, and the continuity equation of their flow."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from any_law import AnyLaw
from closed_form import Empirical, Gaussian, Mixture

from sde_lib import SDES, Flow, flow_drift, reverse_drift

# The drift of the straight path is singular at its end, so the simulation stops before it.
LAWS = {name: Flow(t1=0.95) if name == "flow" else law() for name, law in SDES.items()}
laws = pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
PLANE = Mixture(
    np.array([0.3, 0.5, 0.2]),
    np.array([[-1.0, 0.5], [0.8, -0.3], [0.2, 1.5]]),
    np.array([0.4, 0.7, 0.25]),
)


number = {id(law): i for i, law in enumerate(LAWS.values())}


@jax.jit
def simulated(which, ts):
    """Return means and variances of 8000 paths after each step."""
    law, key = AnyLaw(LAWS.values(), which), jax.random.key(1)

    def body(x, inputs):
        i, s, t = inputs
        u, h = (s + t) / 2, t - s
        z = law.noise(jax.random.fold_in(key, i), x)
        x = x + h * law.drift(x, u) + jnp.sqrt(h) * law.diffusion(x, u) * z
        return x, (jnp.mean(x), jnp.var(x))

    x0 = 1.5 + 0.8 * jax.random.normal(jax.random.fold_in(key, 10**6), (8000, 1))
    start, _ = law.perturb(jax.random.fold_in(key, 10**6 + 1), x0, ts[0])
    return jax.lax.scan(body, start, (jnp.arange(2000), ts[:-1], ts[1:]))[1]


@pytest.mark.optimised
@laws
def test_forward_simulation_has_the_moments_of_the_coefficients(law):
    """Euler-Maruyama with the law's drift and diffusion, from Gaussian data at t0.

    The grid has 2000 steps, even in t or, for EDM, in log t. Coefficients are taken in the middle
    of a step. The remaining bias (0.3 % of the variance for VP) is well below the standard error of
    the variance of 8000 paths, 1.6 %.
    """
    n, mean, std = 8000, 1.5, 0.8
    edges = np.geomspace if law is LAWS["edm"] else np.linspace
    ts = edges(law.t0, law.t1, 2001).astype(np.float32)
    means, variances = jax.device_get(simulated(number[id(law)], ts))
    for i in (200, 600, 1000, 1500, 1999):
        m, v = Gaussian.scalar(mean, std).moments(law, float(ts[i + 1]))
        assert abs(means[i] - m[0]) < 4 * np.sqrt(v[0, 0] / n)
        assert abs(variances[i] / v[0, 0] - 1.0) < 4 * np.sqrt(2 / n)


@jax.jit
def perturbed(which, x0, t):
    return AnyLaw(LAWS.values(), which).perturb(jax.random.key(1), x0, t)


@laws
def test_perturb_draws_the_marginal(law):
    """`x_t` has the stated moments, and `(x_t - a x0) / c` is the noise that is returned."""
    n, t = 40_000, np.float32(0.4 * law.t1)
    x0 = (1.5 + 0.8 * np.random.default_rng(0).standard_normal((n, 1))).astype(np.float32)
    x, z = jax.device_get(perturbed(number[id(law)], x0, np.full(n, t)))
    m, v = Gaussian.scalar(1.5, 0.8).moments(law, t)
    assert abs(np.mean(x) - m[0]) < 4 * np.sqrt(v[0, 0] / n)
    assert abs(np.var(x) / v[0, 0] - 1.0) < 4 * np.sqrt(2 / n)
    a, c = (np.asarray(v) for v in law.coeffs(t))
    np.testing.assert_allclose((x - a * x0) / c, z, atol=2e-5)


@jax.jit
def flow_terms(which, x, t):
    """Return for two fields the sum of the equation's terms and of their sizes; reverse drift."""
    law = AnyLaw(LAWS.values(), which)

    def one(x, t):
        """Evaluate one example, so that derivatives are those of this example alone."""
        score, predict = PLANE.score(law), PLANE.predict(law)
        logp_rate = jax.grad(lambda t: PLANE.logp(law, x[None], t[None])[0])(t)
        s = score(x[None], t)[0]
        balances = []
        for field in (flow_drift(law, score), lambda x, t: predict(x, t).velocity):
            v = lambda x, field=field: field(x[None], t)[0]
            terms = jnp.stack([logp_rate, jnp.trace(jax.jacfwd(v)(x)), v(x) @ s])
            balances.append((jnp.sum(terms), jnp.sum(jnp.abs(terms))))
        reverse, forward = reverse_drift(law, score)(x[None], t)[0], law.drift(x[None], t)[0]
        return balances, reverse, 2 * v(x) - forward

    return jax.vmap(one)(x, t)


@laws
def test_flow_obeys_the_continuity_equation(law, x64):
    """`d log p / dt + div v + v . score = 0` with the exact density of mixture data.

    This holds both for the drift built from f, g and the score, and for the prediction's velocity
    `a' x0 + c' eps`. The reverse drift is then `2 flow - forward`.
    """
    rng = np.random.default_rng(0)
    t = np.append(np.linspace(law.t0 + 0.01, law.t1, 8), law.t0 + 2e-3)
    mean, cov = zip(*(PLANE.moments(law, t_i) for t_i in t))
    x = np.stack(mean) + np.sqrt(np.stack(cov)[:, [0, 1], [0, 1]]) * rng.standard_normal((9, 2))

    balances, reverse, expected = jax.device_get(flow_terms(number[id(law)], x, t))
    for total, size in balances:
        np.testing.assert_array_less(np.abs(total), 1e-9 * size + 1e-12)
    np.testing.assert_allclose(reverse, expected, rtol=1e-9, atol=1e-12)


ORACLES = (
    Gaussian(np.array([0.5, -0.2]), np.array([[1.0, 0.6], [0.6, 0.9]])),
    PLANE,
    Empirical(np.random.default_rng(2).standard_normal((6, 2))),
)


@jax.jit
def oracles(which, x, t):
    """Return each data law's prediction, and the gradient of its log density."""
    law = AnyLaw(LAWS.values(), which)
    slope = lambda d: jax.vmap(jax.grad(lambda x, t: d.logp(law, x[None], t[None])[0]))(x, t)
    return [(data.predict(law)(x, t), slope(data)) for data in ORACLES]


@laws
def test_oracle_score_is_the_gradient_of_its_density(law, x64):
    """The scores of `closed_form.py` are gradients of its densities."""
    rng = np.random.default_rng(1)
    x, t = rng.standard_normal((5, 2)), np.linspace(law.t0 + 0.05, law.t1, 5)
    a, c = (np.asarray(v)[:, None] for v in law.coeffs(t))
    for exact, slope in jax.device_get(oracles(number[id(law)], x, t)):
        np.testing.assert_allclose(exact.score, slope, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(a * exact.x0 + c * exact.eps, x, rtol=1e-9)
        np.testing.assert_allclose(-c * exact.score, exact.eps, rtol=1e-9, atol=1e-12)
