"""The formulas that all exponential integrators of the flow ODE share.

In the half log-SNR `lam` the ODE is linear except for the network. With the linear part solved
exactly (Lu et al. 2022, DPM-Solver, prop. 3.1; DPM-Solver++, prop. 4.1), a step from t to s < t is
as follows, where `h = lam_s - lam_t > 0` and theta in [0, 1] is the completed part of the step:

    noise   x_s = (a_s / a_t) x_t - c_s h  int exp( (1 - theta) h) eps(theta) dtheta
    data    x_s = (c_s / c_t) x_t + a_s h  int exp(-(1 - theta) h) x0(theta) dtheta

Expanding the prediction in theta, with `D_k` its k-th derivative, gives one formula for both forms:

    x_s = ratio x_t + weight sum_k phi_{k+1}(z) D_k,    z = h or -h.

The data form also covers the SDE with the same marginals and the diffusion `sqrt(eta) g`: eta = 0
is the ODE and eta = 1 the reverse SDE of Song et al. 2021. (DPM-Solver++, section 5; SA-Solver's
tau is `sqrt(eta)`, Xue et al. 2023.)
"""

import math
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from sde_lib import AffinePath, expand
from sde_lib.prediction import Prediction

FORMS = ("noise", "data")

# Below this |z| the series is used; its remainder after 18 terms is below 1e-17. Above this |z| the
# recursion loses less than two bits.
SERIES_BELOW = 1.0
TERMS = 18


class Interval(NamedTuple):
    """A step from t to s: `x_s = ratio x_t + weight sum_k phi_{k+1}(z) D_k + std noise`.

    Each field has the shape of t, `()` or `(B,)`. `h = lam_s - lam_t`. A step of length zero has
    ratio 1 and weight 0, so it leaves x unchanged.
    """

    h: Array
    z: Array
    ratio: Array
    weight: Array
    std: Array


def check_form(form: str) -> None:
    if form not in FORMS:
        raise ValueError(f"The form is {form!r}; a solver expands one of {', '.join(FORMS)}.")


def interval(path: AffinePath, t: Array, s: Array, form: str, eta: float = 0.0) -> Interval:
    """The coefficients of a step from t to s <= t.

    Raises:
        ValueError: for a form that is not in `FORMS`, or noise (`eta`) in the noise form.
    """
    check_form(form)
    (a_t, c_t), (a_s, c_s) = path.coeffs(t), path.coeffs(s)
    h = path.lam(s) - path.lam(t)
    if form == "data":
        rate = (1.0 + eta) * h
        std = c_s * jnp.sqrt(-jnp.expm1(-2.0 * eta * h))
        return Interval(h, -rate, c_s / c_t * jnp.exp(-eta * h), a_s * rate, std)
    if eta != 0.0:
        raise ValueError(f"eta is {eta}; steps with noise exist in the form 'data' only.")
    return Interval(h, h, a_s / a_t, -c_s * h, jnp.zeros_like(h))


def target(prediction: Prediction, form: str) -> Array:
    """The predicted quantity that a form expands: the noise eps or the data x0."""
    return prediction.eps if form == "noise" else prediction.x0


def phi(k: int, z: Array) -> Array:
    """`phi_k(z) = sum_n z^n / (n + k)! = int_0^1 exp((1 - theta) z) theta^(k-1) / (k-1)! dtheta`.

    `phi_0 = exp`, `phi_1 = (e^z - 1) / z`, and `phi_{k+1} = (phi_k - 1 / k!) / z`. The recursion
    cancels near z = 0, where the series is summed instead. The result is accurate to about ten
    units in the last place, for any float dtype and k <= 4.
    """
    if k == 0:
        return jnp.exp(z)
    if k == 1:
        safe = jnp.where(z == 0.0, 1.0, z)
        return jnp.where(z == 0.0, 1.0, jnp.expm1(safe) / safe)
    near = jnp.abs(z) < SERIES_BELOW
    small, large = jnp.where(near, z, 0.0), jnp.where(near, 1.0, z)
    series = jnp.zeros_like(small)
    for n in reversed(range(TERMS)):
        series = series * small + 1.0 / math.factorial(n + k)
    far = jnp.expm1(large) / large
    for j in range(1, k):
        far = (far - 1.0 / math.factorial(j)) / large
    return jnp.where(near, series, far)


def combine(x: Array, step: Interval, *derivatives: Array) -> Array:
    """`ratio x + weight sum_k phi_{k+1}(z) D_k`, for `D_0, D_1, ...` with respect to theta."""
    total = expand(step.ratio, x) * x
    for k, derivative in enumerate(derivatives):
        total = total + expand(step.weight * phi(k + 1, step.z), x) * derivative
    return total


def first_order(path: AffinePath, x: Array, value: Array, t: Array, s: Array, form: str) -> Array:
    """The step with a constant prediction, which is DDIM in both forms.

    `value` is the result of `target`, or the value that a method of higher order uses instead.
    """
    return combine(x, interval(path, t, s, form), value)


def time_between(path: AffinePath, t: Array, s: Array, part: float) -> Array:
    """The time that lies the share `part` of the way from t to s, measured in lam."""
    lam = path.lam(t)
    return path.t_of_lam(lam + part * (path.lam(s) - lam))


def step_ratio(h: Array, gap: Array) -> Array:
    """`h / gap`, the ratio of this step's length to an earlier one's, and 0 if `gap` is 0.

    `gap = 0` means that there was no earlier step. The ratio multiplies differences of outputs, so
    these vanish and the method falls back to a lower order.
    """
    return jnp.where(gap > 0.0, h / jnp.where(gap > 0.0, gap, 1.0), 0.0)
