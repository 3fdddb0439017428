"""DDIM (Song, Meng, Ermon 2021, eq. 12 and 16), for any affine law."""

import jax.numpy as jnp

from samplers.base import Sampler, State, start
from sde_lib import AffinePath, expand
from sde_lib.ranges import not_negative


def ddim(path: AffinePath, eta: float = 0.0) -> Sampler:
    """`x_s = a_s x0 + sqrt(c_s^2 - std^2) eps + std z`, `std = eta q c_s / c_t`.

    eta = 0 is deterministic: the exponential Euler method for the flow ODE, of order 1. eta = 1 is
    ancestral sampling with the posterior variance.

    This eta, of Song, Meng & Ermon, is not the strength of `exponential.py`. A step of length h in
    lam is that of order 1 there, data form, with a strength e of its own,

        1 - exp(-2 e h) = eta^2 (1 - exp(-2 h)),

    so e tends to `eta^2` for small h, and both are 1 together.

    Args:
        eta: strength of the noise, 0 without and 1 as ancestral sampling has it.
    """
    not_negative(eta=eta)

    def step(key, predict, state, t, s):
        x = state.x
        a_s, _, c_s = path.coeffs(s)
        prediction = predict(x, t)
        if eta == 0.0:
            return State(expand(a_s, x) * prediction.x0 + expand(c_s, x) * prediction.eps)
        # std / c_s is at most eta, so what is left of c_s is a ratio free of cancellation.
        share = eta * path.forward_step(s, t).q / path.coeffs(t).c
        kept = c_s * jnp.sqrt(1.0 - share**2)
        mean = expand(a_s, x) * prediction.x0 + expand(kept, x) * prediction.eps
        return State(mean + expand(c_s * share, x) * path.noise(key, x))

    return Sampler(start, step, nfe=1)
