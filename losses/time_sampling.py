"""Where in time a training step looks.

A time sampler maps uniform numbers u in [0, 1) to `(t, w)`: times in [t0, t1] and importance
weights `w = uniform density / density of t`, so that `w`-weighted means are unbiased for a uniform
t whatever the sampler. `w` integrates to one.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from losses.weighting import likelihood
from sde_lib import AffinePath

TimeSampler = Callable[[AffinePath, Array], tuple[Array, Array]]

TABLE_SIZE = 4096


def uniform(path: AffinePath, u: Array) -> tuple[Array, Array]:
    """`t ~ U[t0, t1]`, the paper's choice."""
    return path.t0 + u * (path.t1 - path.t0), jnp.ones_like(u)


def uniform_lam(path: AffinePath, u: Array) -> tuple[Array, Array]:
    """t such that `lam(t)` is uniform: every octave of noise is visited equally often."""
    ends = jnp.asarray([path.t0, path.t1], u.dtype)
    high, low = path.lam(ends)
    t = path.t_of_lam(high + u * (low - high))
    slope = jax.vmap(jax.grad(path.lam))(t)
    return t, (low - high) / (slope * (path.t1 - path.t0))


def importance(path: AffinePath, u: Array) -> tuple[Array, Array]:
    """t with density proportional to `g^2 / c^2`, which evens out the likelihood weighting.

    Song, Durkan, Murray, Ermon 2021, section 4.2. The distribution function has no closed form for
    every law, so it is tabulated over a grid that is even in `lam` and inverted by interpolation;
    the returned weight is the exact one for the piecewise-linear table.
    """
    ends = jnp.asarray([path.t0, path.t1], u.dtype)
    high, low = path.lam(ends)
    knots = path.t_of_lam(jnp.linspace(high, low, TABLE_SIZE, dtype=u.dtype))
    knots = knots.at[0].set(path.t0).at[-1].set(path.t1)
    density = likelihood(path, knots)
    mass = jnp.diff(knots) * 0.5 * (density[1:] + density[:-1])
    cdf = jnp.concatenate([jnp.zeros(1, u.dtype), jnp.cumsum(mass)])
    cdf = cdf / cdf[-1]
    i = jnp.clip(jnp.searchsorted(cdf, u, side="right") - 1, 0, TABLE_SIZE - 2)
    width, step = jnp.diff(cdf)[i], jnp.diff(knots)[i]
    t = knots[i] + step * (u - cdf[i]) / width
    return t, step / (width * (path.t1 - path.t0))


TIME_SAMPLING: dict[str, TimeSampler] = {
    "uniform": uniform,
    "uniform_lam": uniform_lam,
    "importance": importance,
}


def stratified(key: Array, size: int) -> Array:
    """`size` uniform numbers, one in each of `size` equal cells, at one random offset.

    `u_i = (u_0 + i / size) mod 1` with one random u_0 (Kingma et al. 2021, appendix I.1): each
    u_i is uniform, and a batch covers time evenly, which takes most of the noise out of the loss.
    """
    offset = jax.random.uniform(key)
    return jnp.mod(offset + jnp.arange(size) / size, 1.0)
