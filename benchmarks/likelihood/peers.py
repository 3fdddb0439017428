"""Other ways to compute a likelihood, on the same network, for `benchmarks.likelihood`.

`scipy_rk45` is the scheme of score_sde: SciPy's RK45 on the host over the whole batch as one
vector, with drift and divergence by two passes of the network, the second in reverse mode.
`diffrax_plain` is the recipe of Diffrax's documentation for continuous normalising flows: Tsit5
over t to a tolerance, one step size for the batch, value and derivative by one `vjp`. PyTorch
packages are in `in_torch.py`.
"""

from collections.abc import Callable
from typing import NamedTuple

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
from scipy.integrate import solve_ivp


class Run(NamedTuple):
    """Result of one run: log p `(B,)` in nats, evaluations of the field, passes of the network.

    A pass is one evaluation of the network, alone or with its derivative.
    """

    logp: np.ndarray
    nfe: float
    passes: float


class Method(NamedTuple):
    """A likelihood that is ready to run, and the compiled XLA programs that it calls."""

    run: Callable[[], Run]
    programs: list


def scipy_rk45(problem, probe: jax.Array, exact: bool, tol: float = 1e-5) -> Method:
    """Return the scheme of score_sde; `exact` sums over all unit vectors in place of one probe."""
    (_, path, predict, x, _, end_logp, _) = problem
    shape, dims = x.shape, x[0].size

    def along(y, t, e):
        pulled = jax.grad(lambda y: jnp.sum(predict(y, t).velocity * e))(y)
        return jnp.sum((pulled * e).reshape(shape[0], -1), axis=1)

    basis = jnp.eye(dims, dtype=x.dtype).reshape(dims, 1, *shape[1:])

    def divergence(y, t):
        if not exact:
            return along(y, t, probe)
        terms = jax.lax.map(lambda e: along(y, t, jnp.broadcast_to(e, shape)), basis, batch_size=16)
        return jnp.sum(terms, axis=0)

    example = x, jnp.asarray(path.t1, x.dtype)
    drift = jax.jit(lambda y, t: predict(y, t).velocity).lower(*example).compile()
    trace = jax.jit(divergence).lower(*example).compile()
    close = jax.jit(end_logp).lower(x).compile()

    def run() -> Run:
        def field(t, state):
            y = jnp.asarray(state[: x.size].reshape(shape), x.dtype)
            t = jnp.asarray(t, x.dtype)
            parts = np.asarray(drift(y, t)).ravel(), np.asarray(trace(y, t))
            return np.concatenate(parts).astype(np.float64)

        start = np.concatenate([np.asarray(x).ravel(), np.zeros(shape[0])])
        found = solve_ivp(field, (path.t0, path.t1), start, rtol=tol, atol=tol, method="RK45")
        end = found.y[:, -1]
        latent = jnp.asarray(end[: x.size].reshape(shape), x.dtype)
        logp = np.asarray(close(latent)) + end[x.size :]
        return Run(logp, found.nfev, 2 * found.nfev)

    return Method(run, [drift, trace, close])


def diffrax_plain(problem, probe: jax.Array, exact: bool, tol: float = 1e-5) -> Method:
    """Return Diffrax's recipe: the whole solve, with the trace, is one compiled program."""
    (_, path, predict, x, _, end_logp, _) = problem
    shape, dims = x.shape, x[0].size
    basis = jnp.eye(dims, dtype=x.dtype).reshape(dims, 1, *shape[1:])

    def field(t, state, args):
        velocity, pull = jax.vjp(lambda y: predict(y, t).velocity, state[0])
        along = lambda e: jnp.sum((pull(e)[0] * e).reshape(shape[0], -1), axis=1)
        if not exact:
            return velocity, along(probe)
        terms = jax.lax.map(lambda e: along(jnp.broadcast_to(e, shape)), basis, batch_size=16)
        return velocity, jnp.sum(terms, axis=0)

    def solve(x):
        solution = diffrax.diffeqsolve(
            diffrax.ODETerm(field),
            diffrax.Tsit5(),
            t0=path.t0,
            t1=path.t1,
            dt0=None,
            y0=(x, jnp.zeros(shape[0], x.dtype)),
            stepsize_controller=diffrax.PIDController(rtol=tol, atol=tol),
            max_steps=10_000,
        )
        latent, trace = (leaf[-1] for leaf in solution.ys)
        return end_logp(latent) + trace, solution.stats["num_steps"]

    compiled = jax.jit(solve).lower(x).compile()

    def run() -> Run:
        logp, steps = compiled(x)
        nfe = 1 + 6 * int(steps)
        return Run(np.asarray(logp), nfe, nfe)

    return Method(run, [compiled])
