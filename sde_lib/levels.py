"""A grid of noise levels, even in the logarithm of `sigma = c / a`."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from sde_lib.affine import AffinePath


class Levels(NamedTuple):
    """`sigma` `(K,)`, falling, so that level 0 is the noisiest, and the law's times `t` `(K,)`."""

    sigma: Array
    t: Array


def make_levels(
    path: AffinePath, count: int, sigma_min: float | None = None, sigma_max: float | None = None
) -> Levels:
    """`count` levels even in log sigma, both ends included; by default the law's own range.

    Raises:
        ValueError: for fewer than two levels, or a range that is empty or beyond the law's.
    """
    # Levels are checked, so they must be known numbers under `jit` too.
    with jax.ensure_compile_time_eval():
        low, high = (float(path.sigma(jnp.asarray(t))) for t in (path.t0, path.t1))
    sigma_min = low if sigma_min is None else sigma_min
    sigma_max = high if sigma_max is None else sigma_max
    if count < 2:
        raise ValueError(f"The number of noise levels is {count}; take at least 2.")
    slack = 1.0 + 1e-5  # a sigma that differs from the law's end by rounding means that end
    if not low / slack <= sigma_min < sigma_max <= high * slack:
        raise ValueError(
            f"The noise levels run from {sigma_min} to {sigma_max}; take them rising and within "
            f"[{low:.6g}, {high:.6g}], the noise c / a of the law from t0 to t1."
        )
    sigma = jnp.exp(jnp.linspace(jnp.log(sigma_max), jnp.log(sigma_min), count))
    return Levels(sigma, jnp.clip(path.t_of_sigma(sigma), path.t0, path.t1))
