"""DDIM (Song, Meng, Ermon 2021, eq. 12 and 16), for any affine law."""

import jax.numpy as jnp
from jax import Array

from samplers.base import Kernel, Sampler, State, drawn, start
from sde_lib import AffinePath, expand
from sde_lib.ranges import up_to_one


def ddim(path: AffinePath, eta: float = 0.0) -> Sampler:
    """`x_s = a_s x0 + sqrt(c_s^2 - std^2) eps + std z`, `std = eta q c_s / c_t`.

    eta = 0 is deterministic: the exponential Euler method for the flow ODE, of order 1. eta = 1 is
    ancestral sampling with the posterior variance.

    This eta of Song, Meng & Ermon differs from the strength of `exponential/integrals.py`. A step
    of length h in lam equals the step of order 1 in `integrals.py`, data form, with a strength e
    that depends on h,

        1 - exp(-2 e h) = eta^2 (1 - exp(-2 h)).

    e tends to `eta^2` for small h, and e = 1 if eta = 1.

    Args:
        eta: strength of the noise, 0 for none and 1 for that of ancestral sampling.

    Raises:
        ValueError: for an eta outside [0, 1].
    """
    up_to_one(eta=eta)

    def flow_step(key, predict, state, span):
        del key
        x, (a_s, c_s) = state.x, path.coeffs(span.s)
        prediction = predict(x, span.t)
        return State(expand(a_s, x) * prediction.x0 + expand(c_s, x) * prediction.eps)

    def kernel(predict, state, span):
        x, (a_s, c_s) = state.x, path.coeffs(span.s)
        prediction, a_s, c_s = predict(x, span.t), expand(a_s, x), expand(c_s, x)
        kept, new = shares(path, span.t, span.s, eta, x)
        return Kernel(a_s * prediction.x0 + c_s * kept * prediction.eps, c_s * new)

    return Sampler(start, flow_step, nfe=1) if eta == 0.0 else drawn(path, kernel)


def shares(path: AffinePath, t: Array, s: Array, eta: float | Array, x: Array):
    """The kept and the newly drawn noise of a step from t to s, as parts of c_s:

        new = eta q / c_t,    kept^2 = 1 - new^2 = 1 - eta^2 + (eta r c_s / c_t)^2.

    `c_t^2 = q^2 + (r c_s)^2`, so kept^2 is a sum of squares. The form `1 - new^2` may fall below 0
    on a long step, where q / c_t is 1 up to rounding. Both results, and eta, broadcast against x.
    """
    (r, q), c_t = path.forward_step(s, t), path.coeffs(t).c
    still, fresh = expand(r * path.coeffs(s).c / c_t, x), expand(q / c_t, x)
    return jnp.sqrt((1.0 - eta) * (1.0 + eta) + (eta * still) ** 2), eta * fresh
