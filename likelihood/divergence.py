"""The divergence of a vector field, together with its value, from one linearisation.

The network is evaluated once per call: value and derivative come from one pass (`jvp` for one
probe, `linearize` for several). Forward mode is used because it keeps no activations, and because
reverse mode through a convolution inside a loop is very slow on CPUs (see `benchmarks/README.md`).
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from sde_lib import dot
from sde_lib.noise import fold_in, normal_like
from sde_lib.noise import rademacher_like as signs_like
from sde_lib.ranges import positive

Field = Callable[[Array], Array]


class Divergence(NamedTuple):
    """A divergence estimator.

    `probes(key, x) -> (K, B, ...)` draws the probes, which stay fixed during a solve (Grathwohl et
    al. 2019: one probe for the whole path keeps the integrand smooth). `evaluate(field, x, probes)`
    returns `(field(x), div)` with `div` of shape `(num_estimates, B)`: one estimate per probe, or
    one exact value. `distinct`: the probes of an example are drawn without replacement from a
    basis.
    """

    probes: Callable[[Array, Array], Array]
    evaluate: Callable[[Field, Array, Array], tuple[Array, Array]]
    num_estimates: int
    exact: bool = False
    distinct: bool = False

    def stderr(self, estimates: Array, dims: int) -> Array:
        """Standard error of the mean of `(num_estimates,)` values; nan for a single probe.

        The mean over K distinct directions out of D has `1 - K / D` times the variance of the mean
        over independent ones, as in sampling without replacement. With all D the trace is exact.
        """
        if self.exact:
            return jnp.zeros((), estimates.dtype)
        if self.num_estimates == 1:
            return jnp.full((), jnp.nan, estimates.dtype)
        left = 1.0 - self.num_estimates / dims if self.distinct else 1.0
        return jnp.std(estimates, ddof=1) * (left / self.num_estimates) ** 0.5


def hutchinson(draw: Callable[[Array, Array], Array], num_probes: int) -> Divergence:
    """`e^T (d field / d x) e` with E[e e^T] = I (Hutchinson 1990; Song et al. 2021, eq. 40)."""
    positive(num_probes=num_probes)

    def probes(key: Array, x: Array) -> Array:
        return jnp.stack([draw(fold_in(key, k), x) for k in range(num_probes)])

    def evaluate(field: Field, x: Array, e: Array) -> tuple[Array, Array]:
        if num_probes == 1:
            value, slope = jax.jvp(field, (x,), (e[0],))
            return value, dot(e[0], slope)[None]
        value, tangent = jax.linearize(field, x)
        return value, jax.vmap(lambda e_k: dot(e_k, tangent(e_k)))(e)

    return Divergence(probes, evaluate, num_probes)


def rademacher(num_probes: int = 1) -> Divergence:
    """Hutchinson with random signs: the least variance of all probes with independent entries."""
    return hutchinson(signs_like, num_probes)


def gaussian(num_probes: int = 1) -> Divergence:
    """Hutchinson with standard normal probes."""
    return hutchinson(normal_like, num_probes)


def orthogonal(num_probes: int = 1) -> Divergence:
    """Hutchinson with orthogonal directions, each of length sqrt(D).

    The directions are the first K rows of a uniformly random rotation (Q of a Gaussian matrix;
    Choromanski et al. 2017). The estimate is unbiased, and exact for K = D.
    """

    def probes(key: Array, x: Array) -> Array:
        dims = x[0].size
        if num_probes > dims:
            raise ValueError(
                f"num_probes is {num_probes} and an example has {dims} dimensions; "
                "there are no more orthogonal probes than dimensions."
            )
        z = jnp.stack([normal_like(fold_in(key, k), x) for k in range(num_probes)])
        return dims**0.5 * orthonormal(z)

    one = hutchinson(normal_like, num_probes)
    return Divergence(probes, one.evaluate, num_probes, distinct=True)


def hutch_pp(num_probes: int = 1) -> Divergence:
    """Hutch++ (Meyer, Musco, Musco, Woodruff 2021): the trace on a subspace where the Jacobian J is
    large, and Hutchinson on what is left.

        Q = orth(J S),   tr(Q^T J Q) + e^T P J P e,   P = I - Q Q^T

    with K random sign vectors in S and K vectors e, fixed during a solve. The cost is 3 K tangents
    of one linearisation for K estimates. The method pays where J has a few large directions, as for
    data near a surface.
    """
    positive(num_probes=num_probes)

    def probes(key: Array, x: Array) -> Array:
        dims = x[0].size
        if num_probes > dims:
            raise ValueError(
                f"num_probes is {num_probes} and an example has {dims} dimensions; "
                "Hutch++ takes no more directions than dimensions."
            )
        return jnp.stack([signs_like(fold_in(key, k), x) for k in range(2 * num_probes)])

    def evaluate(field: Field, x: Array, e: Array) -> tuple[Array, Array]:
        value, tangent = jax.linearize(field, x)
        tangents = jax.vmap(tangent)
        q = orthonormal(tangents(e[:num_probes]))
        main = jnp.sum(jax.vmap(dot)(q, tangents(q)), axis=0)
        rest = e[num_probes:]
        flat_q, flat = (v.reshape(*v.shape[:2], -1) for v in (q, rest))
        inside = jnp.einsum("qbd,kbd,qbe->kbe", flat_q, flat, flat_q)
        rest = (flat - inside).reshape(rest.shape)
        return value, main + jax.vmap(dot)(rest, tangents(rest))

    return Divergence(probes, evaluate, num_probes)


def exact(num_probes: int = 1, block: int = 64) -> Divergence:
    """The exact trace, by one tangent per dimension, `block` of them at a time. It is meant for
    small D and for tests; its memory is that of `block` probes."""
    del num_probes

    def probes(key: Array, x: Array) -> Array:
        del key
        return jnp.zeros((0, *x.shape), x.dtype)

    def evaluate(field: Field, x: Array, none: Array) -> tuple[Array, Array]:
        del none
        value, tangent = jax.linearize(field, x)
        shape, dims = x.shape[1:], x[0].size

        def entry(i: Array) -> Array:
            e = jax.nn.one_hot(i, dims, dtype=x.dtype).reshape(1, *shape)
            slope = tangent(jnp.broadcast_to(e, x.shape)).reshape(x.shape[0], dims)
            return slope[:, i]

        terms = jax.lax.map(entry, jnp.arange(dims), batch_size=min(block, dims))
        return value, jnp.sum(terms, axis=0, keepdims=True)

    return Divergence(probes, evaluate, 1, exact=True)


def orthonormal(z: Array) -> Array:
    """For each example an orthonormal basis of the span of z `(K, B, ...)`, of the shape of z."""
    flat = jnp.moveaxis(z.reshape(*z.shape[:2], -1), 0, 2)
    q, _ = jnp.linalg.qr(flat)
    return jnp.moveaxis(q, 2, 0).reshape(z.shape)


DIVERGENCES = {
    "rademacher": rademacher,
    "gaussian": gaussian,
    "orthogonal": orthogonal,
    "hutch_pp": hutch_pp,
    "exact": exact,
}
