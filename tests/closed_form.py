"""Data laws with closed forms: the ground truth that the tests compare with.

For `x_t = a x0 + c z` and data that are Gaussian, a mixture of isotropic Gaussians, or a finite set
of points, the score, the denoiser, the density, and for Gaussian data the flow map are closed
formulas in the coefficients. Only `path.coeffs` comes from the project. Each prediction is computed
as a posterior mean, never converted from another prediction.

A state is `(B, ...)`, flattened to `(B, D)` inside; a time is `()` or `(B,)`. Inside a traced
function the formulas are evaluated by JAX. On plain arrays NumPy evaluates them in float64, which
compiles nothing; predictions and states then have the dtype of the given state.
"""

from functools import partial
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


def _traced(*trees):
    return any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(trees))


def _namespace(*trees):
    """`jax.numpy` inside a traced function, NumPy on plain arrays."""
    return jnp if _traced(trees) else np


def _coeffs(path, t):
    """`a, c` and their derivatives in t."""
    value, slope = jax.jvp(path.coeffs, (t,), (jnp.ones_like(t),))
    return value.a, value.c, slope.a, slope.c


_coeffs_by_law = partial(jax.jit, static_argnums=0)(_coeffs)


def _columns(path, x, t):
    """`a, c, a', c'` as `(B, 1)` and `x` as `(B, D)`."""
    if _traced(path, x, t):
        t = jnp.broadcast_to(jnp.asarray(t, x.dtype), x.shape[:1])
        return x.reshape(x.shape[0], -1), *(v[:, None] for v in _coeffs(path, t))
    x = np.asarray(x)
    t = np.broadcast_to(np.asarray(t, x.dtype), x.shape[:1])
    # Plain arrays inside a traced function must give numbers too.
    with jax.ensure_compile_time_eval():
        try:
            found = _coeffs_by_law(path, t)
        except ValueError:  # a law that holds arrays, which has no hash
            found = _coeffs(path, jnp.asarray(t))
    columns = [np.asarray(v, np.float64)[:, None] for v in found]
    return x.reshape(x.shape[0], -1).astype(np.float64), *columns


def _predict(path, posterior_means):
    """Return the prediction function of a data law: its posterior means and `a' x0 + c' eps`."""

    def predict(x, t):
        flat, a, c, da, dc = _columns(path, x, t)
        x0, eps, score = posterior_means(flat, a, c)
        fields = (x0, eps, score, da * x0 + dc * eps)
        return Exact(*(v.reshape(x.shape).astype(x.dtype) for v in fields))

    return predict


def _logsumexp(logp):
    """Return log-sum-exp over the last axis."""
    xp = _namespace(logp)
    top = xp.max(logp, axis=-1, keepdims=True)
    if xp is jnp:
        # The value of `top` cancels in the result. Its derivative would be 0 / 0 where a program
        # computes logp a second time with other rounding.
        top = jax.lax.stop_gradient(top)
    return xp.log(xp.sum(xp.exp(logp - top), axis=-1)) + top[..., 0]


def _softmax(logp):
    """Return the softmax over the last axis."""
    xp = _namespace(logp)
    return xp.exp(logp - _logsumexp(logp)[..., None])


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
        a, c = (np.asarray(v, np.float64) for v in path.coeffs(jnp.asarray(t)))
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
        y, xp = (x - a * self.mean[None]) @ U, _namespace(a, x)
        return -0.5 * xp.sum(y**2 / v + xp.log(2 * np.pi * v), axis=-1)

    def flow_map(self, path, x, s, t):
        """Map x by the probability-flow ODE from time s to t; both are numbers.

        Each mode of the covariance is scaled by the ratio of its standard deviations at t and s.
        """
        flat, a_s, c_s, _, _ = _columns(path, x, s)
        _, a_t, c_t, _, _ = _columns(path, x, t)
        L, U = np.linalg.eigh(self.cov)
        L, mean = L[None], self.mean[None]
        gain = _namespace(a_s, a_t, flat).sqrt((a_t**2 * L + c_t**2) / (a_s**2 * L + c_s**2))
        end = a_t * mean + (gain * ((flat - a_s * mean) @ U)) @ U.T
        return end.reshape(x.shape).astype(x.dtype)


class Mixture(NamedTuple):
    """x0 ~ sum_j weights_j N(means_j, stds_j^2 I); `(K,)`, `(K, D)`, `(K,)`."""

    weights: np.ndarray
    means: np.ndarray
    stds: np.ndarray

    def moments(self, path, t):
        """Mean `(D,)` and covariance `(D, D)` of x_t, t a number."""
        a, c = (np.asarray(v, np.float64) for v in path.coeffs(jnp.asarray(t)))
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
        """Return log(weight_j N(x; a m_j, v_j I)), `x - a m_j` and `v_j`, each with an axis j."""
        v = a**2 * self.stds[None] ** 2 + c**2
        d = x[:, None, :] - a[:, :, None] * self.means[None]
        xp = _namespace(x, v)
        logp = -0.5 * (xp.sum(d**2, -1) / v + x.shape[-1] * xp.log(2 * np.pi * v))
        return np.log(self.weights)[None] + logp, d, v[:, :, None]

    def _posterior(self, x, a, c):
        logp, d, v = self._components(x, a, c)
        share = _softmax(logp)[:, :, None]
        a, c = a[:, :, None], c[:, :, None]
        gain = a * self.stds[None, :, None] ** 2 / v
        total = partial(_namespace(a, x).sum, axis=1)
        x0 = total(share * (self.means[None] + gain * d))
        return x0, total(share * c / v * d), -total(share / v * d)

    def predict(self, path):
        return _predict(path, self._posterior)

    def score(self, path):
        return lambda x, t: self.predict(path)(x, t).score

    def logp(self, path, x, t):
        """Log density of x_t in nats, `(B,)`."""
        x, a, c, _, _ = _columns(path, x, t)
        return _logsumexp(self._components(x, a, c)[0])


class Empirical(NamedTuple):
    """x0 is one of the points `(n, D)`, all equally likely; its denoiser is optimal for them."""

    points: np.ndarray

    def moments(self, path, t):
        """Mean `(D,)` and covariance `(D, D)` of x_t, t a number."""
        a, c = (np.asarray(v, np.float64) for v in path.coeffs(jnp.asarray(t)))
        n, dims = self.points.shape
        centred = self.points - self.points.mean(0)
        return a * self.points.mean(0), a**2 * (centred.T @ centred / n) + c**2 * np.eye(dims)

    def draw(self, rng, n):
        return self.points[rng.integers(len(self.points), size=n)]

    def _components(self, x, a, c):
        d = x[:, None, :] - a[:, :, None] * self.points[None]
        return -0.5 * _namespace(a, x).sum(d**2, axis=-1) / c**2, d

    def _posterior(self, x, a, c):
        logp, d = self._components(x, a, c)
        share = _softmax(logp)
        pull = _namespace(a, x).einsum("bn,bnd->bd", share, d)
        return share @ self.points, pull / c, -pull / c**2

    def predict(self, path):
        return _predict(path, self._posterior)

    def score(self, path):
        return lambda x, t: self.predict(path)(x, t).score

    def logp(self, path, x, t):
        """Log density of x_t in nats, `(B,)`."""
        x, a, c, _, _ = _columns(path, x, t)
        norm = 0.5 * x.shape[-1] * _namespace(c).log(2 * np.pi * c[:, 0] ** 2)
        return _logsumexp(self._components(x, a, c)[0]) - norm - np.log(len(self.points))


def w2(mean1, cov1, mean2, cov2):
    """Return the 2-Wasserstein distance of two Gaussians: `(D,)` means, `(D, D)` covariances."""
    L, U = np.linalg.eigh(cov1)
    root = (U * np.sqrt(np.maximum(L, 0.0))) @ U.T
    cross = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ cov2 @ root), 0.0)).sum()
    shift = np.sum((np.asarray(mean1) - np.asarray(mean2)) ** 2)
    return np.sqrt(np.maximum(shift + np.trace(cov1) + np.trace(cov2) - 2.0 * cross, 0.0))


# The one-dimensional mixture of the reference figures in the sampler tests.
M1 = Mixture(np.array([0.4, 0.6]), np.array([[-1.2], [0.9]]), np.array([0.35, 0.35]))
