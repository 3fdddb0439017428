"""A classifier of noisy states: a network of `(x, sigma)` as logits of the classes given `x_t`.

Under every law the network is given `x_t` at unit size and the noise level of the data,

    logits(x, t) = F( x / sqrt(sigma_d^2 a^2 + c^2),  sigma ),      sigma = c / a

so one network design serves all laws (Song et al. 2021, section 5, trains one for VE; Dhariwal and
Nichol 2021 for VP). Its softmax is p(y | x_t), for noisy states and not for clean ones.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from sde_lib.affine import AffinePath
from sde_lib.base import expand

LogitsFn = Callable[[Array, Array], Array]


def make_logits(
    path: AffinePath, apply: Callable[[Array, Array], Array], sigma_data: float = 0.5
) -> LogitsFn:
    """`(x, t) -> logits (B, K)`, float32 or better, for x `(B, ...)` and t `()` or `(B,)`.

    Args:
        apply: `(x, sigma) -> (B, K)`, the network with its parameters; sigma is `(B,)`.
        sigma_data: the data's standard deviation.
    """

    def logits(x: Array, t: Array) -> Array:
        t = jnp.broadcast_to(jnp.asarray(t, jnp.promote_types(x.dtype, jnp.float32)), x.shape[:1])
        a, c = path.coeffs(t)
        size = jnp.sqrt((sigma_data * a) ** 2 + c**2)
        raw = apply(x / expand(size, x), path.sigma(t))
        return raw.astype(jnp.promote_types(raw.dtype, jnp.float32))

    return logits


def log_prob(logits: LogitsFn, x: Array, t: Array, label: Array) -> Array:
    """`log p(label | x_t)` in nats, `(B,)`; label is one class for all, or `(B,)`."""
    values = jax.nn.log_softmax(logits(x, t), axis=-1)
    label = jnp.broadcast_to(label, x.shape[:1])
    return jnp.take_along_axis(values, label[:, None], axis=-1)[:, 0]
