r"""From the law at eps to the data: decoders, which model the step between time eps and the data.

A density p_eps of the noisy state x_eps = a x + c z and any conditional law p(data | x_eps) define
a model of the data. By Jensen's inequality (Kingma et al. 2021, Variational Diffusion Models,
https://arxiv.org/abs/2107.00630, sections 3.3 and 3.5)

    log p(data) >= E_z [ log p_eps(x_eps) + log p(data | x_eps) - log q(x_eps | data) ],

with q(x_eps | data) = N(a y, c^2 I) the law's own kernel at eps, and y the data in model units. The
decoders here are the posteriors under a flat prior, for each dimension alone:

    levels      p(u | x_eps) = N(x_eps; a y_u, c^2) / sum_v N(x_eps; a y_v, c^2)
    continuous  p(x | x_eps) = N(x; x_eps / a, (c / a)^2 I) = a^D N(x_eps; a x, c^2 I)

In the ratio to q the kernel cancels, and only the normalisation of the decoder is left:

    levels      log p(u) >= E_z [ log p_eps(x_eps) - sum_d log sum_v N(x_eps,d; a y_v, c^2) ]
    continuous  log p(x) >= E_z [ log p_eps(x_eps) ] + D log a
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from likelihood.ode import LogLik
from sde_lib import AffinePath, expand, fold_in, normal_logp, split, total

LogDensity = Callable[[Array, Array], LogLik]

# Trapezoidal rule for a mean over z in [-8, 8]. The mass outside is 1e-15, and for integrands as
# smooth as these the error falls exponentially in the number of nodes.
NODES = np.linspace(-8.0, 8.0, 257)


def log_decoder(
    path: AffinePath, eps: float | Array, values: Array, u: Array, x_eps: Array
) -> Array:
    """`log p(u | x_eps)` in nats, summed over the dimensions of an example: `(B,)`.

    The decoder of levels in the module's text: independent dimensions, a flat prior over levels.

    Args:
        eps: the time of x_eps, `()` or `(B,)`; data lie at `t0`.
        values: `(L,)`, the levels in model units: `scaler.affine(jnp.arange(levels))`. For a model
            of dequantised data the middle of a bin, `scaler.affine(jnp.arange(levels) + 0.5)`, is
            the better choice; the bound holds for both.
        u: `(B, ...)` integers, 0 to L - 1. A larger integer gives nan.
        x_eps: `(B, ...)`, the noisy state. Memory is L times its size.

    Raises:
        ValueError: where u is not of integers or not of the shape of x_eps, or values not `(L,)`.
    """
    check_levels(values, u)
    if u.shape != x_eps.shape:
        raise ValueError(
            f"Levels are of shape {u.shape} and the states of {x_eps.shape}; they must be equal."
        )
    logits = log_kernels(path, eps, values, x_eps)
    index = u.astype(jnp.int32)[..., None]
    return total(jnp.take_along_axis(jax.nn.log_softmax(logits, axis=-1), index, axis=-1))


def expected_log_decoder(path: AffinePath, eps: float | Array, values: Array) -> Array:
    """`E_z log p(u | a y_u + c z)` of every level u, in nats of one dimension: `(L,)`.

    The mean over the noise of the law at the time eps is computed by quadrature. The reconstruction
    term of an example is therefore a sum of entries of this table, without sampling error. The
    table takes `257 L^2` exponentials. Arguments as in `log_decoder`.
    """
    values = as_float(values)
    a, c = path.coeffs(jnp.asarray(eps, values.dtype))
    z = jnp.asarray(NODES, values.dtype)
    weight = jax.nn.softmax(-0.5 * z**2)

    def one(u: Array) -> Array:
        logits = log_kernels(path, eps, values, a * values[u] + c * z)
        return jnp.sum(weight * jax.nn.log_softmax(logits, axis=-1)[:, u])

    return jax.lax.map(one, jnp.arange(values.shape[0]))


def closed_log_likelihood(
    key: Array,
    path: AffinePath,
    log_p_eps: LogDensity,
    values: Array,
    u: Array,
    *,
    eps: float | Array | None = None,
    num_draws: int = 1,
) -> LogLik:
    """Draws whose mean bounds `log P(u)` of levels from below, in nats, summed over dimensions.

    Each draw is `log p_eps(x_eps) + log p(u | x_eps) - log q(x_eps | u)` at one z, see the module's
    text. P is the law of the model, `P(u) = int p_eps(x) p(u | x) dx`, for which the bound holds at
    every u. The bound is tight where the decoder is the posterior of u under p_eps. P need not be
    the law of the data: if p_eps is exact for data with probabilities P_data, the mean over the
    data is below `E log P_data` by the divergence of the decoder from the posterior.

    Args:
        key: one key, or one per example.
        log_p_eps: `(key, x) -> LogLik`, the log density of the law at the same eps, for example
            `lambda key, x: log_likelihood(key, path, predict, x, divergence=..., eps=eps)`.
        values, u: as in `log_decoder`.
        eps: the law's `t0` if not given.
        num_draws: K, of the noise.

    Returns:
        The `LogLik` of all draws: each field has a leading axis K, and `logp` `(K, B)` is the draws
        of the bound. Their mean over K is the plain bound; `importance_weighted` is a tighter one.

    Raises:
        ValueError: where u is not of integers, or values are not `(L,)`.
    """
    check_levels(values, u)
    y = jnp.take(as_float(values), u.astype(jnp.int32), mode="fill", fill_value=jnp.nan)
    time = start(path, eps, y)
    comb = lambda x: total(jax.nn.logsumexp(log_kernels(path, time, values, x), axis=-1))
    return noised(key, path, log_p_eps, y, time, num_draws, lambda x: -comb(x))


def noised_log_density(
    key: Array,
    path: AffinePath,
    log_p_eps: LogDensity,
    x: Array,
    *,
    eps: float | Array | None = None,
    num_draws: int = 1,
) -> LogLik:
    """Draws of `log p_eps(a x + c z) + D log a`, whose mean bounds `log p(x)` from below, in nats.

    The model is `p(x) = int p_eps(x') N(x; x' / a, (c / a)^2 I) dx'`: a draw at eps, divided by a,
    to which noise of the same variance is added once more. The bound follows from Jensen's
    inequality as in the module's text. With a uniform dequantisation of x it bounds bits/dim
    without a gap between 0 and eps.

    Args:
        x: `(B, ...)`, continuous data in model units. Others as in `closed_log_likelihood`.

    Returns:
        As `closed_log_likelihood`: every field with a leading axis of draws, `logp` `(K, B)`.
    """
    x = as_float(x)
    time = start(path, eps, x)
    volume = lambda y: x[0].size * jnp.log(path.coeffs(time).a)
    return noised(key, path, log_p_eps, x, time, num_draws, volume)


def noised(key, path, log_p_eps, y, time, num_draws, closing) -> LogLik:
    """`log p_eps(x_eps) + closing(x_eps)` at `num_draws` noisy states of y."""

    def draw(k: Array) -> LogLik:
        for_noise, for_probes = split(fold_in(key, k), 2)
        x_eps = path.marginal(y, path.noise(for_noise, y), time)
        result = log_p_eps(for_probes, x_eps)
        return result._replace(logp=result.logp + closing(x_eps))

    return jax.lax.map(draw, jnp.arange(num_draws))


def log_kernels(path: AffinePath, eps: float | Array, values: Array, x: Array) -> Array:
    """`log N(x; a y_v, c^2)` of each dimension and level: the shape of x and a last axis L."""
    x = as_float(x)
    a, c = path.coeffs(jnp.asarray(eps, x.dtype))
    levels = values.astype(x.dtype).reshape((1,) * x.ndim + (-1,))
    x = x[..., None]
    z = (x - expand(a, x) * levels) / expand(c, x)
    return normal_logp(z, expand(c, x))


def as_float(x: Array) -> Array:
    """x in at least float32, for values that may be given as integers."""
    return jnp.asarray(x, jnp.promote_types(jnp.result_type(x), jnp.float32))


def start(path: AffinePath, eps: float | Array | None, x: Array) -> Array:
    """The time eps as an array, `t0` if it is None, in the dtype of x."""
    return jnp.asarray(path.t0 if eps is None else eps, x.dtype)


def check_levels(values: Array, u: Array) -> None:
    """Raises ValueError for levels that are not integers, or values that are not `(L,)`."""
    if not jnp.issubdtype(u.dtype, jnp.integer):
        raise ValueError(f"Levels are {u.dtype}; give the integers 0 to L - 1, before scaling.")
    if values.ndim != 1:
        raise ValueError(
            f"The levels' values are of shape {values.shape}; give one number for each level, (L,)."
        )
