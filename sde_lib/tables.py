"""The chains of N levels from which the laws grew, DDPM (Ho et al. 2020) and SMLD (Song & Ermon
2019), as tables; and the discretisation of a law by them.

    x_i = r_i x_{i-1} + q_i z,    x_i = a_i x0 + c_i z,    i = 0 (least noise) ... N - 1

    DDPM (VP)   q_i^2 = beta_i = B_i / N, B_i even from beta_min to beta_max;   r_i^2 = 1 - beta_i
                a_i^2 = prod_{j <= i} (1 - beta_j);                             c_i^2 = 1 - a_i^2
    SMLD (VE)   c_i = sigma_i, geometric from sigma_min to sigma_max;           a_i = r_i = 1
                q_i^2 = sigma_i^2 - sigma_{i-1}^2, with sigma_{-1} = 0

The formulas are those of Song et al. 2021, appendix B, with the levels of the released code. The
laws themselves have no levels. Everything is computed in float64 and kept in float32.
"""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import Array

from sde_lib.affine import AffinePath, Coeffs, Transition
from sde_lib.subvp import SubVP
from sde_lib.ve import VE
from sde_lib.vp import VP


@struct.dataclass
class Tables(AffinePath):
    """A chain of N levels: `(N,)` float32 each, index 0 the least noise.

    It is an affine law whose time is the level, an integer array, so that whatever needs only
    `coeffs` serves chains as well: noisy data, and the targets of the prediction kinds. It has no
    drift, diffusion or velocity, which are derivatives in time.
    """

    a: Array
    c: Array
    r: Array
    q: Array

    @property
    def num_scales(self) -> int:
        return len(self.a)

    def index(self, t: Array) -> Array:
        """The level at time t in [0, 1]: `t (N - 1)` in float32, truncated, as in the original."""
        return (jnp.asarray(t, jnp.float32) * (self.num_scales - 1)).astype(jnp.int32)

    def coeffs(self, i: Array) -> Coeffs:
        a = jnp.asarray(self.a)[i]
        return Coeffs(a, jnp.asarray(self.c)[i])

    def kernel(self, i: Array) -> Transition:
        """From level i - 1 to level i; for i = 0, from the data to level 0."""
        return Transition(jnp.asarray(self.r)[i], jnp.asarray(self.q)[i])

    def rates(self, t: Array) -> Coeffs:
        raise ValueError(
            "A chain of levels has no derivatives in time; take prediction.kind 'eps' or 'score', "
            "or training.continuous=True."
        )


def make_tables(path: AffinePath, num_scales: int) -> Tables:
    """DDPM's chain for VP, SMLD's for VE.

    Raises:
        ValueError: for another law, for a law that does not end at t1 = 1, for fewer than two
            levels, and where DDPM's largest beta, `beta_max / N`, is not below 1.
    """
    check_levels(path, num_scales)
    if isinstance(path, VP):
        return ddpm(float(path.beta_min), float(path.beta_max), num_scales)
    if isinstance(path, VE):
        return smld(float(path.sigma_min), float(path.sigma_max), num_scales)
    raise ValueError(
        f"{type(path).__name__} has no chain of discrete levels; take sde.name 'vp' (DDPM) or 've' "
        "(SMLD), or training.continuous=True."
    )


def ddpm(beta_min: float, beta_max: float, num_scales: int) -> Tables:
    betas = np.linspace(beta_min, beta_max, num_scales) / num_scales
    if not betas[-1] < 1.0:
        raise ValueError(
            f"There are {num_scales} levels and sde.beta_max is {beta_max}; DDPM's largest beta, "
            "beta_max over the number of levels, must be below 1: take more of them "
            "(model.num_scales, sampling.steps)."
        )
    a2 = np.cumprod(1.0 - betas)
    return _rounded(np.sqrt(a2), np.sqrt(1.0 - a2), np.sqrt(1.0 - betas), np.sqrt(betas))


def smld(sigma_min: float, sigma_max: float, num_scales: int) -> Tables:
    sigmas = np.exp(np.linspace(np.log(sigma_min), np.log(sigma_max), num_scales))
    ones = np.ones(num_scales)
    return _rounded(ones, sigmas, ones, np.sqrt(np.diff(sigmas**2, prepend=0.0)))


def _rounded(*columns: np.ndarray) -> Tables:
    return Tables(*(column.astype(np.float32) for column in columns))


def discretise(path: AffinePath, num_scales: int) -> Callable[[Array], Transition]:
    """`t -> (r, q)`, the forward step `x + f = r x + q z` that the original takes at time t.

    For VP and VE the step is that of the chain at level `index(t)`. Sub-VP has no chain; its step
    is Euler-Maruyama over 1/N, `r = 1 - beta / (2 N)`, `q = g / sqrt(N)`.

    Raises:
        ValueError: as `make_tables`, except for sub-VP.
    """
    if isinstance(path, SubVP):
        check_levels(path, num_scales)
        return lambda t: Transition(1.0 + path.f(t) / num_scales, jnp.sqrt(path.g2(t) / num_scales))
    tables = make_tables(path, num_scales)
    return lambda t: tables.kernel(tables.index(t))


def check_levels(path: AffinePath, num_scales: int) -> None:
    if num_scales < 2:
        raise ValueError(
            f"There is to be {num_scales} level; a chain needs at least 2 (model.num_scales, "
            "sampling.steps)."
        )
    if path.t1 != 1.0:
        raise ValueError(
            f"sde.t1 is {path.t1}; the levels of the discrete chains are spread over [0, 1]: "
            "take sde.t1=1."
        )
