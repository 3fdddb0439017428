"""The divergence of a vector field, together with its value, from one linearisation.

The network is evaluated once per call: value and derivative come from the same pass (`jvp` for one
probe, `linearize` for several), never from two. Forward mode is the choice because it keeps no
activations, and because reverse mode through a convolution inside a loop falls off a cliff on CPUs
(see `benchmarks/README.md`).
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from sde_lib.noise import fold_in, normal_like
from sde_lib.noise import rademacher_like as signs_like

Field = Callable[[Array], Array]


class Divergence(NamedTuple):
    """A divergence estimator.

    `probes(key, x) -> (K, B, ...)` draws what stays fixed during a solve (Grathwohl et al. 2019:
    one probe for the whole path keeps the integrand smooth). `evaluate(field, x, probes)` returns
    `(field(x), div)` with `div` of shape `(num_estimates, B)`: one estimate a probe, or one exact
    value.
    """

    probes: Callable[[Array, Array], Array]
    evaluate: Callable[[Field, Array, Array], tuple[Array, Array]]
    num_estimates: int
    exact: bool = False

    def stderr(self, estimates: Array) -> Array:
        """Standard error of the mean of `(num_estimates,)` values; nan for a single probe."""
        if self.exact:
            return jnp.zeros((), estimates.dtype)
        if self.num_estimates == 1:
            return jnp.full((), jnp.nan, estimates.dtype)
        return jnp.std(estimates, ddof=1) / self.num_estimates**0.5


def hutchinson(draw: Callable[[Array, Array], Array], num_probes: int) -> Divergence:
    """`e^T (d field / d x) e` with E[e e^T] = I (Hutchinson 1990; Song et al. 2021, eq. 40)."""

    def probes(key: Array, x: Array) -> Array:
        return jnp.stack([draw(fold_in(key, k), x) for k in range(num_probes)])

    def evaluate(field: Field, x: Array, e: Array) -> tuple[Array, Array]:
        if num_probes == 1:
            value, slope = jax.jvp(field, (x,), (e[0],))
            return value, contract(e[0], slope)[None]
        value, tangent = jax.linearize(field, x)
        return value, jax.vmap(lambda e_k: contract(e_k, tangent(e_k)))(e)

    return Divergence(probes, evaluate, num_probes)


def rademacher(num_probes: int = 1) -> Divergence:
    """Hutchinson with random signs: the least variance of all probes with independent entries."""
    return hutchinson(signs_like, num_probes)


def gaussian(num_probes: int = 1) -> Divergence:
    """Hutchinson with standard normal probes."""
    return hutchinson(normal_like, num_probes)


def exact(num_probes: int = 1) -> Divergence:
    """The trace itself, by one tangent per dimension: for small D, and for tests."""
    del num_probes

    def probes(key: Array, x: Array) -> Array:
        del key
        basis = jnp.eye(x[0].size, dtype=x.dtype).reshape(-1, 1, *x.shape[1:])
        return jnp.broadcast_to(basis, (x[0].size, *x.shape))

    def evaluate(field: Field, x: Array, basis: Array) -> tuple[Array, Array]:
        value, tangent = jax.linearize(field, x)
        terms = jax.vmap(lambda e: contract(e, tangent(e)))(basis)
        return value, jnp.sum(terms, axis=0, keepdims=True)

    return Divergence(probes, evaluate, 1, exact=True)


def contract(e: Array, v: Array) -> Array:
    """Inner product over all axes but the first: `(B,)`."""
    return jnp.sum((e * v).reshape(e.shape[0], -1), axis=-1)


DIVERGENCES = {"rademacher": rademacher, "gaussian": gaussian, "exact": exact}
