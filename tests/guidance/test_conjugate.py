"""Conjugate gradients, an example at a time."""

import jax.numpy as jnp
import numpy as np
import pytest

from guidance.conjugate import conjugate_gradients, conjugate_residuals

RNG = np.random.default_rng(0)
ROOTS = RNG.standard_normal((4, 7, 7))
M = ROOTS @ ROOTS.transpose(0, 2, 1) + 0.1 * np.eye(7)
B = RNG.standard_normal((4, 7))
TRUTH = np.linalg.solve(M, B[..., None])[..., 0]
SOLVERS = (conjugate_gradients, conjugate_residuals)


def product(M):
    return lambda v: jnp.einsum("bij,bj->bi", jnp.asarray(M, v.dtype), v)


@pytest.mark.parametrize("solve", SOLVERS)
def test_solves(solve, x64):
    """To rounding after as many iterations as unknowns, preconditioned or not; no harm by more."""
    rough = product(np.stack([np.diag(1.0 / np.diag(matrix)) for matrix in M]))
    for found in (
        solve(product(M), jnp.asarray(B), 7),
        solve(product(M), jnp.asarray(B), 30),
        solve(product(M), jnp.asarray(B), 7, rough),
    ):
        np.testing.assert_allclose(found, TRUTH, rtol=1e-7)


@pytest.mark.parametrize("solve", SOLVERS)
def test_few_iterations_are_the_best_of_their_krylov_space(solve, x64):
    """In span(b, M b, M^2 b) the error in the norm of M is least, or the residual."""
    found = solve(product(M), jnp.asarray(B), 3)
    for matrix, b, x in zip(M, B, np.asarray(found)):
        basis = np.linalg.qr(np.stack([b, matrix @ b, matrix @ matrix @ b], 1))[0]
        left = basis if solve is conjugate_gradients else matrix @ basis
        best = basis @ np.linalg.solve(left.T @ matrix @ basis, left.T @ b)
        np.testing.assert_allclose(x, best, rtol=1e-8)


@pytest.mark.parametrize("solve", SOLVERS)
def test_preconditioned(solve, x64):
    """With the inverse itself one iteration is enough."""
    found = solve(product(M), jnp.asarray(B), 1, product(np.linalg.inv(M)))
    np.testing.assert_allclose(found, TRUTH, rtol=1e-8)


@pytest.mark.parametrize("solve", SOLVERS)
def test_examples_are_apart(solve, x64):
    """An example is the same alone and beside one that is a million times as large."""
    b = jnp.asarray(B) * jnp.asarray([1.0, 1e6, 1e-6, 0.0])[:, None]
    together = solve(product(M), b, 4)
    alone = [solve(product(M[i : i + 1]), b[i : i + 1], 4) for i in range(4)]
    np.testing.assert_allclose(together, np.concatenate(alone), rtol=1e-9)
    assert not np.any(together[3])


@pytest.mark.parametrize("solve", SOLVERS)
@pytest.mark.parametrize("iterations", [1, 40])
def test_stays_finite_where_it_should_stop(iterations, solve):
    """Long after the residual is rounding, and along a direction of negative curvature."""
    bad = M.copy()
    bad[0] -= 30.0 * np.eye(7)
    assert np.all(np.isfinite(solve(product(bad), jnp.asarray(B), iterations)))
    assert np.all(np.isfinite(solve(product(M), jnp.asarray(B), iterations)))
