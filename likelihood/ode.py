"""Exact log-likelihood by the probability-flow ODE (Song et al. 2021, section 4.3, eq. 39).

    d x / dt = velocity(x, t),   d l / dt = div velocity(x, t),   from eps to t1
    log p_eps(x) = log prior(x(t1)) + l(t1)

One Diffrax solve of the pair `(x, l)`, each example with steps of its own under `vmap`: its value
does not depend on the examples beside it. The density is that of the law at `eps`, to which the
data are taken to belong; what lies between 0 and eps is left out, as in the original.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from likelihood.divergence import Divergence
from samplers.solve import Solver, solve_ode
from sde_lib import AffinePath
from sde_lib.prediction import PredictFn


class LogLik(NamedTuple):
    """Per example, `(B,)` unless said otherwise.

    `logp`: nats, the mean over probes. `stderr`: its standard error over probes (nan for a single
    probe, 0 for the exact trace). `latent`: the code at t1, shape of `x`. `nfe`: evaluations of the
    network with its derivative, as the solver counted them. `failed`: the solve did not reach t1
    within its steps, or met a value that is not finite; `logp` is nan there.
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
    divergence: Divergence,
    solver: Solver = Solver(),  # noqa: B008 - an immutable tuple of numbers
    eps: float | None = None,
    prior_logp: Callable[[Array], Array] | None = None,
) -> LogLik:
    """Log-likelihood of `x` `(B, ...)` in nats, summed over the dimensions of an example.

    Args:
        key: one key, from which example i takes `fold_in(key, i)`, or one key per example.
        predict: `(x, t) -> Prediction`; its `velocity` is the field.
        divergence: an entry of `DIVERGENCES`, called with the number of probes.
        eps: where the path starts; the law's `t0` if not given.
        prior_logp: the density at t1, `(B, ...) -> (B,)`; the law's prior if not given.
    """
    prior_logp = prior_logp or path.prior_logp
    t0 = jnp.asarray(path.t0 if eps is None else eps, x.dtype)
    t1 = jnp.asarray(path.t1, x.dtype)
    if key.ndim == 0:
        key = jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(x.shape[0]))

    def one(key_i: Array, x_i: Array) -> LogLik:
        probes = divergence.probes(key_i[None], x_i[None])

        def augmented(t, state):
            velocity, div = divergence.evaluate(
                lambda y: predict(y, t).velocity, state[0][None], probes
            )
            return velocity[0], div[:, 0]

        l0 = jnp.zeros(divergence.num_estimates, x.dtype)
        (latent, trace), nfe, failed = solve_ode(augmented, (x_i, l0), t0, t1, solver, path)
        estimates = prior_logp(latent[None])[0] + trace
        return LogLik(jnp.mean(estimates), divergence.stderr(estimates), latent, nfe, failed)

    return jax.vmap(one)(key, x)
