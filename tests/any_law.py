"""One law that stands for any of several, so that a costly program is compiled once for all laws.

    run = jax.jit(lambda which, x: log_likelihood(KEY, AnyLaw(LAWS.values(), which), ...))

`which` is an argument of the program, and each method is a `lax.switch` over the methods of
the laws themselves. An adaptive solve takes seconds to compile, a formula of a law milliseconds.
"""

import jax
import jax.numpy as jnp

from sde_lib import AffinePath


class AnyLaw(AffinePath):
    """Law number `which` of `laws`; their methods must return the same shapes and types."""

    __hash__ = None  # it holds a traced number, so it must not be the key of a cache

    def __init__(self, laws, which):
        self.laws, self.which = tuple(laws), which
        self.t0, self.t1 = (
            jax.lax.switch(which, [lambda law=law, end=end: getattr(law, end) for law in self.laws])
            for end in ("t0", "t1")
        )

    def _switch(self, name, *args):
        return jax.lax.switch(self.which, [getattr(law, name) for law in self.laws], *args)


def _method(name):
    def call(self, *args):
        return self._switch(name, *(jnp.asarray(arg) for arg in args))

    call.__name__ = name
    return call


for _name in ("coeffs", "lam", "t_of_lam", "rates", "f", "g2", "prior_std", "prior_logp"):
    setattr(AnyLaw, _name, _method(_name))
