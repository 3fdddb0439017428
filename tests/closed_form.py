"""Data laws for which everything is known: the ground truth that the tests compare with.

For `x_t = a x0 + c z` and data that are Gaussian, a mixture of isotropic Gaussians, or a finite set
of points, the score, the denoiser, the density, and for Gaussian data the flow map are closed
formulas in the coefficients. Nothing here comes from the project but `path.coeffs`: each
prediction is a posterior mean of its own, never converted from another one.

A state is `(B, ...)`, flattened to `(B, D)` inside; a time is `()` or `(B,)`. Everything is in
float64 where that is switched on.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Exact(NamedTuple):
    """The four fields of the project's `Prediction`."""

    x0: jax.Array
    eps: jax.Array
    score: jax.Array
    velocity: jax.Array


def _columns(path, x, t):
    """`a, c, a', c'` as `(B, 1)` and `x` as `(B, D)`."""
    t = jnp.broadcast_to(jnp.asarray(t, x.dtype), x.shape[:1])
    value, slope = jax.jvp(path.coeffs, (t,), (jnp.ones_like(t),))
    columns = [v[:, None] for v in (value.a, value.c, slope.a, slope.c)]
    return x.reshape(x.shape[0], -1), *columns


def _predict(path, posterior_means):
    """Completes `(x0, eps, score)` of a data law with the velocity `a' x0 + c' eps`."""

    def predict(x, t):
        flat, a, c, da, dc = _columns(path, x, t)
        x0, eps, score = posterior_means(flat, a, c)
        return Exact(*(v.reshape(x.shape) for v in (x0, eps, score, da * x0 + dc * eps)))

    return predict


class Gaussian(NamedTuple):
    """x0 ~ N(mean, cov), `(D,)` and `(D, D)`."""

    mean: np.ndarray
    cov: np.ndarray

    @classmethod
    def scalar(cls, mean, std, dims=1):
        """`dims` independent copies of N(mean, std^2)."""
        return cls(np.full(dims, mean), np.eye(dims) * std**2)

    def moments(self, path, t):
        """Mean `(D,)` and covariance `(D, D)` of x_t, t a number."""
        a, _, c = (np.asarray(v, np.float64) for v in path.coeffs(jnp.asarray(t)))
        return a * self.mean, a**2 * self.cov + c**2 * np.eye(len(self.mean))

    def draw(self, rng, n):
        return rng.multivariate_normal(self.mean, self.cov, n)

    def _posterior(self, x, a, c):
        L, U = np.linalg.eigh(self.cov)
        y = (x - a * self.mean[None]) @ U
        v = a**2 * L[None] + c**2
        x0 = self.mean[None] + (a * L[None] / v * y) @ U.T
        return x0, (c / v * y) @ U.T, -(y / v) @ U.T

    def predict(self, path):
        return _predict(path, self._posterior)

    def score(self, path):
        return lambda x, t: self.predict(path)(x, t).score

    def logp(self, path, x, t):
        """Log density of x_t in nats, `(B,)`."""
        x, a, c, _, _ = _columns(path, x, t)
        L, U = np.linalg.eigh(self.cov)
        v = a**2 * L[None] + c**2
        y = (x - a * self.mean[None]) @ U
        return -0.5 * jnp.sum(y**2 / v + jnp.log(2 * jnp.pi * v), axis=-1)

    def flow_map(self, path, x, s, t):
        """The probability-flow ODE from s to t, both numbers: each mode is scaled by its spread."""
        flat, a_s, c_s, _, _ = _columns(path, x, s)
        _, a_t, c_t, _, _ = _columns(path, x, t)
        L, U = np.linalg.eigh(self.cov)
        L, mean = L[None], self.mean[None]
        gain = jnp.sqrt((a_t**2 * L + c_t**2) / (a_s**2 * L + c_s**2))
        return (a_t * mean + (gain * ((flat - a_s * mean) @ U)) @ U.T).reshape(x.shape)


class Mixture(NamedTuple):
    """x0 ~ sum_j weights_j N(means_j, stds_j^2 I); `(K,)`, `(K, D)`, `(K,)`."""

    weights: np.ndarray
    means: np.ndarray
    stds: np.ndarray

    def moments(self, path, t):
        """Mean `(D,)` and covariance `(D, D)` of x_t, t a number."""
        a, _, c = (np.asarray(v, np.float64) for v in path.coeffs(jnp.asarray(t)))
        dims = self.means.shape[1]
        mean = self.weights @ self.means
        spread = (self.weights[:, None] * (self.means - mean)).T @ (self.means - mean)
        cov = spread + np.eye(dims) * (self.weights @ self.stds**2)
        return a * mean, a**2 * cov + c**2 * np.eye(dims)

    def draw(self, rng, n):
        j = rng.choice(len(self.weights), n, p=self.weights)
        noise = rng.standard_normal((n, self.means.shape[1]))
        return self.means[j] + self.stds[j, None] * noise

    def _components(self, x, a, c):
        """Log of `weight_j N(x; a m_j, v_j I)`, `x - a m_j` and `v_j`, each with an axis j."""
        v = a**2 * self.stds[None] ** 2 + c**2
        d = x[:, None, :] - a[:, :, None] * self.means[None]
        logp = -0.5 * (jnp.sum(d**2, -1) / v + x.shape[-1] * jnp.log(2 * jnp.pi * v))
        return np.log(self.weights)[None] + logp, d, v[:, :, None]

    def _posterior(self, x, a, c):
        logp, d, v = self._components(x, a, c)
        share = jax.nn.softmax(logp, axis=-1)[:, :, None]
        a, c = a[:, :, None], c[:, :, None]
        gain = a * self.stds[None, :, None] ** 2 / v
        x0 = jnp.sum(share * (self.means[None] + gain * d), axis=1)
        return x0, jnp.sum(share * c / v * d, axis=1), -jnp.sum(share / v * d, axis=1)

    def predict(self, path):
        return _predict(path, self._posterior)

    def score(self, path):
        return lambda x, t: self.predict(path)(x, t).score

    def logp(self, path, x, t):
        """Log density of x_t in nats, `(B,)`."""
        x, a, c, _, _ = _columns(path, x, t)
        return jax.nn.logsumexp(self._components(x, a, c)[0], axis=-1)


class Empirical(NamedTuple):
    """x0 is one of the points `(n, D)`, all equally likely: the optimum for a training set."""

    points: np.ndarray

    def moments(self, path, t):
        """Mean `(D,)` and covariance `(D, D)` of x_t, t a number."""
        a, _, c = (np.asarray(v, np.float64) for v in path.coeffs(jnp.asarray(t)))
        n, dims = self.points.shape
        centred = self.points - self.points.mean(0)
        return a * self.points.mean(0), a**2 * (centred.T @ centred / n) + c**2 * np.eye(dims)

    def draw(self, rng, n):
        return self.points[rng.integers(len(self.points), size=n)]

    def _components(self, x, a, c):
        d = x[:, None, :] - a[:, :, None] * self.points[None]
        return -0.5 * jnp.sum(d**2, axis=-1) / c**2, d

    def _posterior(self, x, a, c):
        logp, d = self._components(x, a, c)
        share = jax.nn.softmax(logp, axis=-1)
        pull = jnp.einsum("bn,bnd->bd", share, d)
        return share @ self.points, pull / c, -pull / c**2

    def predict(self, path):
        return _predict(path, self._posterior)

    def score(self, path):
        return lambda x, t: self.predict(path)(x, t).score

    def logp(self, path, x, t):
        """Log density of x_t in nats, `(B,)`."""
        x, a, c, _, _ = _columns(path, x, t)
        norm = 0.5 * x.shape[-1] * jnp.log(2 * jnp.pi * c[:, 0] ** 2) + np.log(len(self.points))
        return jax.nn.logsumexp(self._components(x, a, c)[0], axis=-1) - norm


def w2(mean1, cov1, mean2, cov2):
    """The 2-Wasserstein distance between two Gaussians: `(D,)` means, `(D, D)` covariances."""
    L, U = np.linalg.eigh(cov1)
    root = (U * np.sqrt(np.maximum(L, 0.0))) @ U.T
    cross = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ cov2 @ root), 0.0)).sum()
    shift = np.sum((np.asarray(mean1) - np.asarray(mean2)) ** 2)
    return np.sqrt(np.maximum(shift + np.trace(cov1) + np.trace(cov2) - 2.0 * cross, 0.0))


# The one-dimensional mixture of the reference figures in the sampler tests.
M1 = Mixture(np.array([0.4, 0.6]), np.array([[-1.2], [0.9]]), np.array([0.35, 0.35]))
