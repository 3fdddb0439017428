"""Several laws in one program: each example of a batch has a law of its own.

A solver sees a law through `coeffs`, `lam` and `t_of_lam` alone, and asks for them at one time an
example. One compiled run then holds all the laws side by side, at half the price of a run each.
"""

import jax
import jax.numpy as jnp

from sde_lib.affine import AffinePath


class LawByExample(AffinePath):
    """`which` `(B,)` is the place in `laws` of each example's law; times are `(..., B)`."""

    def __init__(self, laws, which):
        self.laws, self.which = laws, which

    def _choose(self, method, v):
        of_each = [getattr(law, method)(v) for law in self.laws]
        mine = [self.which == i for i in range(len(self.laws))]
        return jax.tree.map(lambda *values: jnp.select(mine, values), *of_each)

    def coeffs(self, t):
        return self._choose("coeffs", t)

    def lam(self, t):
        return self._choose("lam", t)

    def t_of_lam(self, lam):
        return self._choose("t_of_lam", lam)
