"""Misfits of measurements, and their Laplacians, against derivatives."""

import jax
import jax.numpy as jnp
import numpy as np
from scipy.stats import multivariate_normal

from operators import blur, matrix
from restoration import gaussian_misfit, measured_misfit
from restoration.misfit import laplacian_of

KEY = jax.random.key(0)
SCALAR = matrix((1,), np.eye(1))


def test_laplacians(x64):
    """The estimate of the Laplacian has no bias: its mean over all signs is the trace.

    For a quadratic misfit the Laplacian is the same for all states.
    """
    rng = np.random.default_rng(0)
    H = rng.standard_normal((3, 3))
    H = H @ H.T
    value = lambda x: 0.5 * jnp.einsum("bi,ij,bj->b", x, H, x) + jnp.sum(x, 1) ** 4
    misfit, x = measured_misfit(value, (3,)), rng.standard_normal((5, 3))
    linear = gaussian_misfit(matrix((3,), H), np.ones(3), 0.5)
    known = measured_misfit(value, (3,), laplacian=lambda x: 7.0 * jnp.ones(len(x)))
    exact, tries = np.trace(H) + 3 * 12.0 * np.sum(x, 1) ** 2, 4000

    @jax.jit
    def run(x, key):
        one = lambda k: laplacian_of(misfit, k)(x)
        many = laplacian_of(misfit, key, 20_000)(x)
        others = [laplacian_of(each, key)(x) for each in (linear, known)]
        return jax.vmap(one)(jax.random.split(key, tries)), many, *others

    found, many, of_linear, of_known = jax.device_get(run(x, KEY))
    assert np.all(np.abs(found.mean(0) - exact) < 4.0 * found.std(0) / tries**0.5)
    np.testing.assert_allclose(many, exact, rtol=4 * np.max(found.std(0) / exact) / 20_000**0.5)
    np.testing.assert_allclose(of_linear, np.trace(H @ H) / 0.25)
    np.testing.assert_array_equal(of_known, 7.0)


def test_the_misfit_of_a_linear_measurement(x64):
    """Value, gradient and evidence have closed forms, with both ways to the singular basis."""
    rng = np.random.default_rng(0)
    wide = np.outer(rng.standard_normal(4), rng.standard_normal(3))
    cases = [
        matrix((3,), wide),
        matrix((3,), rng.standard_normal((5, 3)), svd=False),
        blur((3, 2, 1), 0.8, "zero"),
    ]
    noise, std = 0.3, 2.0
    for operator in cases:
        size = int(np.prod(operator.shape_in))
        y, x = rng.standard_normal(operator.shape_out), rng.standard_normal((4, size))
        misfit = gaussian_misfit(operator, y, noise)

        @jax.jit
        def run(x, unit, operator=operator, misfit=misfit):
            value, gradient, laplacian = misfit.value(x), misfit.gradient(x), misfit.laplacian(x)
            evidence = misfit.quadratic.log_evidence(std)
            return operator.forward(unit), value, gradient, laplacian, evidence

        states = [v.reshape(-1, *operator.shape_in) for v in (x, np.eye(size))]
        columns, value, gradient, laplacian, evidence = jax.device_get(run(*states))
        A = columns.reshape(size, -1).T
        eye, flat = np.eye(len(A)), y.reshape(-1)
        logp = [multivariate_normal.logpdf(flat, A @ each, noise**2 * eye) for each in x]
        np.testing.assert_allclose(value, np.negative(logp), rtol=1e-10)
        wanted = (x @ A.T - flat) @ A / noise**2
        np.testing.assert_allclose(gradient.reshape(4, -1), wanted, atol=1e-9)
        total = multivariate_normal.logpdf(flat, None, std**2 * A @ A.T + noise**2 * eye)
        np.testing.assert_allclose(evidence, total, rtol=1e-10)
        np.testing.assert_allclose(laplacian, np.sum(A**2) / noise**2)
        np.testing.assert_allclose(misfit.stiffest, np.linalg.norm(A, 2) ** 2 / noise**2)
