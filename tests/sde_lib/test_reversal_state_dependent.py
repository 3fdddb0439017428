"""Time reversal with state-dependent diffusion, which needs the divergence of G G^T.

Log-normal data under geometric Brownian motion stay log-normal, so the exact score is known:

    dx = mu x dt + diag(x) L dw,    log x_t ~ N(m_t, S_t),
    m_t = m_0 + (mu - diag(L L^T) / 2) t,    S_t = S_0 + L L^T t

In one dimension this is a diagonal law; with more noises than dimensions it is a matrix law.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from samplers import euler_maruyama, sample
from sde_lib import flow_drift, reverse_drift
from sde_lib.reverse import ggt_divergence, ggt_times, noise_term


class Motion(NamedTuple):
    """Geometric Brownian motion with `L` of shape `(D, M)`; a diagonal law if `matrix` is False."""

    mu: float
    L: np.ndarray
    mean: np.ndarray
    cov: np.ndarray
    matrix: bool = False
    t0: float = 0.0
    t1: float = 1.0

    @property
    def diffusion_type(self):
        return "matrix" if self.matrix else "diagonal"

    def drift(self, x, t):
        return self.mu * x

    def diffusion(self, x, t):
        return x[:, :, None] * self.L[None] if self.matrix else x * np.diag(self.L)[None]

    def noise(self, key, x):
        shape = (x.shape[0], self.L.shape[1]) if self.matrix else x.shape
        return jax.random.normal(key, shape, x.dtype)

    def log_moments(self, t):
        C = self.L @ self.L.T
        return self.mean + (self.mu - np.diag(C) / 2) * t, self.cov + C * t

    def logp(self, x, t):
        """Return the log density of one state `(D,)`, in nats."""
        m, S = self.log_moments(t)
        y = jnp.log(x) - m
        quad = y @ jnp.linalg.solve(S, y)
        return -0.5 * quad - 0.5 * jnp.linalg.slogdet(2 * jnp.pi * S)[1] - jnp.sum(jnp.log(x))

    def score(self, x, t):
        t = jnp.broadcast_to(t, x.shape[:1])
        return jax.vmap(jax.grad(self.logp))(x, t)

    def predict(self, x, t):
        return Scored(self.score(x, t))


class Scored(NamedTuple):
    """The field of a prediction that Euler-Maruyama uses."""

    score: jax.Array


LINE = Motion(0.3, np.array([[0.5]]), np.array([0.2]), np.array([[0.16]]))
PLANE = Motion(
    0.2,
    np.array([[0.4, 0.2, 0.0], [-0.1, 0.3, 0.25]]),
    np.array([0.2, -0.1]),
    np.array([[0.2, 0.05], [0.05, 0.1]]),
    matrix=True,
)
motions = pytest.mark.parametrize("law", [LINE, PLANE], ids=["diagonal", "matrix"])


class Twisted(NamedTuple):
    """A matrix law without structure, used only for the divergence."""

    diffusion_type: str = "matrix"

    def diffusion(self, x, t):
        u, v = x[:, 0], x[:, 1]
        t = jnp.broadcast_to(t, u.shape)
        rows = [[u, 0.3 * v**2, jnp.sin(v) + t], [0.2 * u * v, jnp.cos(u), 0.5 * t]]
        return jnp.stack([jnp.stack(row, axis=-1) for row in rows], axis=-2)


@pytest.mark.parametrize("law", [LINE, PLANE, Twisted()], ids=["diagonal", "matrix", "twisted"])
def test_divergence_against_finite_differences(law, x64, strict_ranks):
    """The divergence equals `sum_j d/dx_j (G G^T)_ij` by central differences of G G^T."""
    dims = 1 if law is LINE else 2
    x, t = np.random.default_rng(0).uniform(0.3, 2.0, (4, dims)), np.array([0.1, 0.4, 0.7, 1.0])
    v, h = np.random.default_rng(1).standard_normal(x.shape), 1e-5

    shifts = h * np.concatenate([np.zeros((1, dims)), np.eye(dims), -np.eye(dims)])

    @jax.jit
    def run(x, t):
        G = jax.vmap(lambda shift: law.diffusion(x + shift[None], t))(shifts)
        return G, ggt_divergence(law, x, t), ggt_times(law, x, t, v), ggt_divergence(law, x, t[1])

    G, divergence, product, at_one_time = jax.device_get(run(x, t))
    if law.diffusion_type == "diagonal":
        G = G[..., None] * np.eye(dims)
    ggt = G @ np.swapaxes(G, -1, -2)
    slopes = (ggt[1 : 1 + dims] - ggt[1 + dims :]) / (2 * h)
    total = sum(slopes[j][:, :, j] for j in range(dims))
    np.testing.assert_allclose(divergence, total, rtol=1e-8)
    np.testing.assert_allclose(product, np.einsum("bij,bj->bi", ggt[0], v), rtol=1e-12)
    # a scalar time means the same for every example
    np.testing.assert_allclose(at_one_time[1], total[1], rtol=1e-8)


@motions
def test_flow_obeys_the_continuity_equation(law, x64):
    """`d log p / dt + div v + v . score = 0`; without the divergence term it does not hold."""
    rng = np.random.default_rng(0)
    x, t = rng.uniform(0.4, 2.5, (6, len(law.mean))), np.linspace(0.0, 1.0, 6)

    def one(x, t):
        flow = lambda x: flow_drift(law, law.score)(x[None], t)[0]
        lacking = lambda x: flow(x) + 0.5 * ggt_divergence(law, x[None], t)[0]
        rate = jax.grad(law.logp, argnums=1)(x, t)
        s = law.score(x[None], t)[0]
        return [rate + jnp.trace(jax.jacfwd(v)(x)) + v(x) @ s for v in (flow, lacking)]

    @jax.jit
    def run(x, t):
        drifts = [f(law, law.score)(x, t) for f in (reverse_drift, flow_drift)]
        return *jax.vmap(one)(x, t), *drifts, law.drift(x, t)

    balance, without, reverse, flow, drift = jax.device_get(run(x, t))
    np.testing.assert_allclose(balance, 0.0, atol=1e-9)
    assert np.all(abs(without) > 1e-2)
    np.testing.assert_allclose(reverse, 2 * flow - drift, rtol=1e-10)


@motions
@pytest.mark.parametrize("probability_flow", [False, True], ids=["sde", "ode"])
def test_reverse_simulation_returns_the_data(law, probability_flow):
    """A reverse run with the exact score ends with log-mean and log-covariance of the data.

    Euler-Maruyama takes 400 steps from t = 1 to 0. Its bias in the log-mean, of the order of a step
    times C, is far below the standard error of 5,000 paths.
    """
    n = 5_000
    rng = np.random.default_rng(0)
    x1 = np.exp(rng.multivariate_normal(*law.log_moments(1.0), n)).astype(np.float32)
    ts, sampler = (
        np.linspace(1.0, 0.0, 401, dtype=np.float32),
        euler_maruyama(law, probability_flow),
    )
    run = jax.jit(lambda key, ts: sample(key, law.predict, sampler, x1, ts).x)
    y = np.log(np.asarray(run(jax.random.key(0), ts), np.float64))
    se = np.sqrt(np.diag(law.cov) / n)
    assert np.all(abs(y.mean(0) - law.mean) < 4 * se)
    variances = np.diag(np.atleast_2d(np.cov(y.T)))
    assert np.all(abs(variances / np.diag(law.cov) - 1.0) < 4 * np.sqrt(2 / n) + 0.01)


def test_without_the_divergence_the_log_mean_is_wrong():
    """The log-mean shifts by `-2 s^2 log(S_1 / S_0)`, with S the variance of log x.

    It becomes -0.101 instead of 0.200. Without the divergence 2 sigma^2 x, log x drifts by
    -2 sigma^2 more per unit of reverse time, while the score pulls it back at the rate
    sigma^2 / S. The shift is the balance of the two.
    """
    law, n = LINE, 5_000
    m, S = law.log_moments(1.0)
    x1 = np.exp(m + np.sqrt(S[0]) * np.random.default_rng(0).standard_normal((n, 1)))
    h = 1.0 / 400

    @jax.jit
    def run(key, x):
        def body(x, i):
            t = 1.0 - h * i
            drift = reverse_drift(law, law.score)(x, t) + ggt_divergence(law, x, t)
            z = law.noise(jax.random.fold_in(key, i), x)
            return x - h * drift + h**0.5 * noise_term(law, x, t, z), None

        return jax.lax.scan(body, x, jnp.arange(400))[0]

    y = np.log(np.asarray(run(jax.random.key(0), np.float32(x1)), np.float64))
    shift = -2 * law.cov[0, 0] * np.log(S[0, 0] / law.cov[0, 0])
    assert abs(shift + 0.3) < 0.005
    assert abs(y.mean() - (0.2 + shift)) < 4 * 0.4 / n**0.5


def test_divergence_holds_no_matrix_of_the_dimensions():
    """The divergence of a diagonal law of 300 dimensions is exact and needs no D x D array.

    The law has `g_i = sum_k sin(x_k) + i x_i`. No array of the program is larger than a few states.
    """

    class Diagonal:
        diffusion_type = "diagonal"

        def diffusion(self, x, t):
            return jnp.sum(jnp.sin(x), axis=1, keepdims=True) + jnp.arange(300.0) * x

    x = np.random.default_rng(0).standard_normal((2, 300))
    g = np.sin(x).sum(axis=1, keepdims=True) + np.arange(300.0) * x
    run = lambda x: ggt_divergence(Diagonal(), x, jnp.asarray(0.5))
    found = jax.jit(run)(jnp.asarray(x, jnp.float32))
    np.testing.assert_allclose(found, 2 * g * (np.cos(x) + np.arange(300.0)), rtol=1e-3, atol=1e-2)
    assert "300,300" not in str(jax.make_jaxpr(run)(x))
