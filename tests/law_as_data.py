"""A law whose choice among several is an argument of a compiled program.

A law that is a constant needs a program of its own. With the number of the law as an argument, one
program serves all laws.
"""

import jax
import jax.numpy as jnp
from flax import struct
from jax import Array

from sde_lib import AffinePath, Coeffs


@struct.dataclass
class OneOf(AffinePath):
    """Law number `index` of `laws`. Each method and each time is that law's own."""

    index: Array
    laws: tuple[AffinePath, ...] = struct.field(pytree_node=False)

    def own(self, name, *args):
        return jax.lax.switch(self.index, [getattr(law, name) for law in self.laws], *args)

    @property
    def t0(self) -> Array:
        return jnp.asarray([law.t0 for law in self.laws])[self.index]

    @property
    def t1(self) -> Array:
        return jnp.asarray([law.t1 for law in self.laws])[self.index]

    def coeffs(self, t: Array) -> Coeffs:
        return self.own("coeffs", jnp.asarray(t))

    def lam(self, t: Array) -> Array:
        return self.own("lam", jnp.asarray(t))

    def t_of_lam(self, lam: Array) -> Array:
        return self.own("t_of_lam", jnp.asarray(lam))

    def f(self, t: Array) -> Array:
        return self.own("f", jnp.asarray(t))

    def g2(self, t: Array) -> Array:
        return self.own("g2", jnp.asarray(t))

    def prior_std(self) -> Array:
        return self.own("prior_std")


def for_each(laws, run):
    """Return `(name, *args) -> run(law, *args)`, one compiled program for all laws of the dict."""
    compiled = jax.jit(lambda index, *args: run(OneOf(index, tuple(laws.values())), *args))

    return lambda name, *args: compiled(list(laws).index(name), *args)
