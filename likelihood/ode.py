"""Exact log-likelihood by the probability-flow ODE (Song et al. 2021, section 4.3, eq. 39).

    d x / dt = velocity(x, t),   d l / dt = div velocity(x, t),   from eps to t1
    log p_eps(x) = log prior(x(t1)) + l(t1)

in the coordinates and the variable of a `Frame`, where x = r z and so

    log p_eps(x) = log prior(x(t1)) + l(u1) + D log (r(t1) / r(eps)).

The pair `(z, l)` is solved together: adaptively by Diffrax, with steps of its own for each example
under `vmap`, or in a fixed number of steps (`adams.py`). In both cases the value of an example does
not depend on the other examples of the batch. The result can be differentiated in reverse with
respect to x and to what `predict` closes over. `Solver(adjoint="checkpoint")` and fixed steps keep
the states between steps. "backsolve" keeps no states and solves backwards, so its gradient has the
error of that solve. The density is that of the law at `eps`, and the data are treated as draws of
it; the interval between 0 and eps is left out, as in the original.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from likelihood.adams import Adams, advance, lay_out
from likelihood.divergence import Divergence
from samplers.adaptive.frame import Frame, make_frame
from samplers.adaptive.solver import Solver, solve_ode
from samplers.base import finite
from sde_lib import AffinePath, expand
from sde_lib.prediction import Cond, PredictFn, bound, one_of_batch


class LogLik(NamedTuple):
    """Per example, `(B,)` unless said otherwise.

    `logp`: nats, the mean over probes. `stderr`: its standard error over probes (nan for a single
    probe, 0 for the exact trace). `latent`: the code at t1, shape of `x`. `nfe`: evaluations of the
    network with its derivative, as the solver counted them. `failed`: whether the solve did not
    reach t1 within its steps or met a value that is not finite; there `logp` is nan.
    """

    logp: Array
    stderr: Array
    latent: Array
    nfe: Array
    failed: Array


def log_likelihood(
    key: Array,
    path: AffinePath,
    predict: PredictFn,
    x: Array,
    *,
    cond: Cond = None,
    divergence: Divergence,
    solver: Solver | Adams = Solver(),  # noqa: B008 - an immutable tuple of numbers
    eps: float | None = None,
    prior_logp: Callable[[Array], Array] | None = None,
) -> LogLik:
    """Log-likelihood of `x` `(B, ...)` in nats, summed over the dimensions of an example.

    Args:
        key: one key, from which example i takes `fold_in(key, i)`, or one key per example.
        predict: `(x, t, cond=None) -> Prediction`; the field comes from it.
        cond: the condition of each example; the result is then `log p(x | cond)`.
        divergence: an entry of `DIVERGENCES`, called with the number of probes.
        solver: to a tolerance (`Solver`), or in a fixed number of steps (`Adams`), for which the
            numbers of the law must be known when the program is built.
        eps: the time at which the path starts; the law's `t0` if not given.
        prior_logp: the density at t1, `(B, ...) -> (B,)`; the law's prior if not given.

    Raises:
        ValueError: for numbers of the solver that are out of range.
    """
    # The numbers of a law that is known stay numbers, also under `jit`.
    with jax.ensure_compile_time_eval():
        t0 = jnp.asarray(path.t0 if eps is None else eps, x.dtype)
        frame = make_frame(path, solver.variable, t0, solver.sigma_data)
    if key.ndim == 0:
        key = jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(x.shape[0]))
    solve = fixed if isinstance(solver, Adams) else adaptive
    # Nats per dimension, so that a tolerance has the same meaning for any number of dimensions.
    dims = x[0].size
    r0, r1 = frame.scale(t0), frame.scale(jnp.asarray(path.t1, x.dtype))
    z, trace, nfe, failed = solve(key, predict, cond, divergence, frame, x / r0, solver, dims)
    latent = r1 * z
    moved = dims * (trace + jnp.log(r1 / r0))
    estimates = (prior_logp or path.prior_logp)(latent)[:, None] + moved
    logp = jnp.where(failed, jnp.nan, jnp.mean(estimates, axis=1))
    stderr = jax.vmap(lambda e: divergence.stderr(e, dims))(estimates)
    return LogLik(logp, stderr, latent, nfe, failed)


def augmented(predict: PredictFn, divergence: Divergence, frame: Frame, probes: Array, dims: int):
    """`(u, (z, l)) -> (dz/du, div / D)` for z `(B, ...)` and l `(B, estimates)`."""

    def field(u: Array, state):
        value, div = divergence.evaluate(lambda z: frame.slope(predict, z, u), state[0], probes)
        return value, div.T / dims

    return field


def adaptive(key, predict, cond, divergence, frame, z, solver, dims):
    """One solve per example: ends, integrals `(B, estimates)`, evaluations and failures."""

    def one(key_i: Array, z_i: Array, cond_i: Cond):
        z_i, told = z_i[None], bound(predict, one_of_batch(cond_i))
        probes = divergence.probes(key_i[None], z_i)
        field = augmented(told, divergence, frame, probes, dims)
        state = z_i, jnp.zeros((1, divergence.num_estimates), z_i.dtype)
        (z_i, trace), nfe, failed = solve_ode(
            field, state, frame.start, frame.end, solver, norm=larger_part
        )
        return z_i[0], trace[0], nfe, failed

    return jax.vmap(one)(key, z, cond)


def larger_part(error) -> Array:
    """The larger root mean square of the two parts, so that the one number l counts as much as the
    D numbers z."""
    return jnp.maximum(*(jnp.sqrt(jnp.mean(part**2)) for part in error))


def fixed(key, predict, cond, divergence, frame, z, solver, dims):
    """As `adaptive`, by `Adams` with the whole batch on one grid."""
    us = lay_out(solver, frame)
    probes = divergence.probes(key, z)
    field = augmented(bound(predict, cond), divergence, frame, probes, dims)
    state = z, jnp.zeros((z.shape[0], divergence.num_estimates), z.dtype)
    (z, trace), nfe, _ = advance(field, state, us, solver.order)
    there = finite(trace) & finite(z)
    hide = lambda v: jnp.where(expand(there, v), v, jnp.nan)
    return hide(z), hide(trace), jnp.full(z.shape[:1], nfe), ~there
