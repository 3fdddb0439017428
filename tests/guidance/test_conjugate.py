"""Conjugate gradients and conjugate residuals, for each example of a batch on its own."""

import functools

import jax
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
    return lambda v: jnp.einsum("bij,bj->bi", M, v)


@functools.partial(jax.jit, static_argnums=(0, 3))
def run(solve, M, b, iterations, rough=None):
    """Solve M x = b; each number of iterations is a program."""
    more = () if rough is None else (product(rough),)
    return solve(product(M), b, iterations, *more)


@pytest.mark.parametrize("solve", SOLVERS)
def test_solves(solve, x64):
    """With as many iterations as unknowns the solution is exact to rounding.

    More iterations, here with a preconditioner, do no harm.
    """
    rough = np.stack([np.diag(1.0 / np.diag(matrix)) for matrix in M])
    for found in (run(solve, M, B, 7), run(solve, M, B, 40, rough)):
        np.testing.assert_allclose(found, TRUTH, rtol=1e-7)


@pytest.mark.parametrize("solve", SOLVERS)
def test_few_iterations_are_the_best_of_their_krylov_space(solve, x64):
    """After 3 iterations, the error in the norm of M or the residual is least in the Krylov space.

    The space is span(b, M b, M^2 b).
    """
    for matrix, b, x in zip(M, B, np.asarray(run(solve, M, B, 3))):
        basis = np.linalg.qr(np.stack([b, matrix @ b, matrix @ matrix @ b], 1))[0]
        left = basis if solve is conjugate_gradients else matrix @ basis
        best = basis @ np.linalg.solve(left.T @ matrix @ basis, left.T @ b)
        np.testing.assert_allclose(x, best, rtol=1e-8)


@pytest.mark.parametrize("solve", SOLVERS)
def test_preconditioned(solve, x64):
    """With the inverse as preconditioner one iteration is enough."""
    np.testing.assert_allclose(run(solve, M, B, 1, np.linalg.inv(M)), TRUTH, rtol=1e-8)


@pytest.mark.parametrize("solve", SOLVERS)
def test_examples_are_apart(solve, x64):
    """An example has the same solution among copies of itself and beside much larger examples."""
    b = B * np.array([1.0, 1e6, 1e-6, 0.0])[:, None]
    together = np.asarray(run(solve, M, b, 3))
    for i, one in enumerate(together):
        copies = run(solve, M[[i] * 4], b[[i] * 4], 3)
        np.testing.assert_allclose(copies, np.tile(one, (4, 1)), rtol=1e-9)
    assert not np.any(together[3])


@pytest.mark.parametrize("solve", SOLVERS)
def test_stays_finite_where_it_should_stop(solve):
    """Solutions stay finite after many iterations, and with a direction of negative curvature."""
    bad = M.copy()
    bad[0] -= 30.0 * np.eye(7)
    for matrices in (M, bad):
        assert np.all(
            np.isfinite(run(solve, matrices.astype(np.float32), B.astype(np.float32), 40))
        )
