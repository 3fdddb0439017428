"""Adams-Bashforth on the velocity of the flow ODE, over the angle between data and noise.

With `sigma_d` the size of the data, every affine law is a rotation from data to noise,

    x = r y,    y = cos(phi) x0 / sigma_d + sin(phi) eps,
    r = sqrt(sigma_d^2 a^2 + c^2),    phi = atan(c / (sigma_d a)),

and its flow ODE is `dy / dphi = v = cos(phi) eps - sin(phi) x0 / sigma_d` for every schedule. This
v is that of Salimans & Ho 2022 (arXiv 2202.00512, appendix D) at sigma_d = 1, and the trigonometric
flow of Lu & Song 2024 (arXiv 2410.11081, section 3) at any sigma_d. No factor of v grows at either
end of the path, and v is zero on Gaussian data of standard deviation sigma_d. The method integrates
the polynomial in phi through the last k values of v exactly.
"""

import jax.numpy as jnp
import numpy as np
from jax import Array

from samplers.base import Sampler, State
from samplers.exponential.adams_bashforth import MAX_ORDER, empty_history, push, shorten, used
from samplers.exponential.lagrange import gauss, lagrange
from sde_lib import AffinePath, expand
from sde_lib.prediction import Prediction

# Gauss-Legendre on [0, 1], exact for the cubic polynomials of order 4.
POINTS, WEIGHTS = gauss(MAX_ORDER // 2)


def velocity_ab(path: AffinePath, order: int = 2, sigma_data: float = 1.25) -> Sampler:
    """`y_s = y_t + sum_j w_j v_j` over the last `order` velocities (fewer at the start).

    Args:
        order: 1 to 4.
        sigma_data: sigma_d, about the largest size of the data, in their units. In the limit of a
            large sigma_d the noise is expanded in `rho = c / a` (DEIS, `adams_bashforth` with form
            "noise" and basis "rho"); in that of a small one the data are expanded in `a / c`.

    A step costs one evaluation. The first step has order 1, so the error of every higher order
    falls with slope 2 in the end, but only at many more steps than are used in practice.

    Raises:
        ValueError: for an order outside 1 to 4, or a sigma_data that is not positive.
    """
    if not 1 <= order <= MAX_ORDER:
        raise ValueError(f"order is {order}; it must lie between 1 and {MAX_ORDER}.")
    if not 0.0 < sigma_data < np.inf:
        raise ValueError(f"sigma_data is {sigma_data}; the size of the data must be positive.")

    def init(x: Array, t: Array) -> State:
        return State(x, empty_history(x, t, order - 1))

    def step(key, predict, state, span):
        t, s = span.t, span.s
        del key
        x = state.x
        history = push(state.memory, t, velocity(path, sigma_data, predict(x, t), t))
        gains = weights(path, sigma_data, history.times, t, s)
        y = x / expand(radius(path, sigma_data, t), x)
        y = y + sum(expand(gain, x) * v for gain, v in zip(gains, history.outputs))
        return State(expand(radius(path, sigma_data, s), x) * y, shorten(history))

    return Sampler(init, step, nfe=1)


def radius(path: AffinePath, sigma_data: float, t: Array) -> Array:
    """`r = sqrt(sigma_d^2 a^2 + c^2)`, the standard deviation of x for Gaussian data of sigma_d."""
    a, c = path.coeffs(t)
    return jnp.sqrt((sigma_data * a) ** 2 + c**2)


def velocity(path: AffinePath, sigma_data: float, prediction: Prediction, t: Array) -> Array:
    """`dy / dphi = (sigma_d a eps - c x0 / sigma_d) / r`."""
    (a, c), r = path.coeffs(t), radius(path, sigma_data, t)
    x0, eps = prediction.x0, prediction.eps
    return expand(sigma_data * a / r, eps) * eps - expand(c / (sigma_data * r), x0) * x0


def turn(path: AffinePath, sigma_data: float, t: Array, s: Array) -> Array:
    """`phi_s - phi_t` in radians, computed as the angle between the two directions.

    Subtracting the angles would cancel at large noise, where both are near pi / 2.
    """
    (a_t, c_t), (a_s, c_s) = path.coeffs(t), path.coeffs(s)
    sine = sigma_data * (c_s * a_t - a_s * c_t)
    return jnp.arctan2(sine, sigma_data**2 * a_s * a_t + c_s * c_t)


def weights(path: AffinePath, sigma_data: float, times: Array, t: Array, s: Array) -> Array:
    """`int l_j dphi` from t to s, l_j the Lagrange polynomials on the angles of `times` `(k, ...)`.

    Returns `(k, ...)`. An entry that repeats the time of a newer entry is empty
    (`adams_bashforth.History`): it gets weight zero and is left out of the other polynomials.
    """
    nodes, span = turn(path, sigma_data, jnp.asarray(t)[None], times), turn(path, sigma_data, t, s)
    shape = (-1, *(1,) * span.ndim)
    u, w = (jnp.asarray(v, span.dtype).reshape(shape) for v in (POINTS, WEIGHTS))
    there = used(times)
    polynomials = lagrange(span[None] * u, nodes, there, jnp)
    integral = span[None] * jnp.sum(w[:, None] * polynomials, axis=0)
    return jnp.where(there, integral, 0.0)
