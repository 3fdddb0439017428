"""How much each noise level counts, as a factor on the squared error of the noise.

The denoising score matching loss is `lambda(t) |score - grad log p(x_t | x0)|^2` (Song et al.
2021, eq. 7), and `score = -eps / c`, so a weighting of scores by lambda is a weighting of noises
by `lambda / c^2`.
"""

from collections.abc import Callable

import jax.numpy as jnp
from jax import Array

from sde_lib import AffinePath

Weighting = Callable[[AffinePath, Array], Array]


def variance(path: AffinePath, t: Array) -> Array:
    """The paper's `lambda = c^2`: all noise levels count alike."""
    del path
    return jnp.ones_like(t)


def likelihood(path: AffinePath, t: Array) -> Array:
    """`lambda = g^2`, for which half the loss bounds the negative log-likelihood.

    Song, Durkan, Murray, Ermon 2021 (Maximum Likelihood Training of Score-Based Diffusion Models),
    theorem 1: integrated over t, `1/2 E[g^2 |score error|^2]` bounds the divergence in nats.
    """
    return path.g2(t) / path.coeffs(t).c ** 2


WEIGHTINGS: dict[str, Weighting] = {"variance": variance, "likelihood": likelihood}
