"""Several laws in one program: each example of a batch has a law of its own.

A solver uses only `coeffs`, `lam` and `t_of_lam` of a law, and calls them with one time per
example. So one compiled run can hold all laws side by side, in half the time of a run for each.
"""

import jax
import jax.numpy as jnp

from sde_lib.affine import AffinePath


class LawByExample(AffinePath):
    """A law for each example: `which` `(B,)` is the index of its law in `laws`.

    Times are `(..., B)`, and so is `t1`, for solvers that need the first time.
    """

    def __init__(self, laws, which, t1=None):
        self.laws, self.which, self.t1 = laws, which, t1

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
