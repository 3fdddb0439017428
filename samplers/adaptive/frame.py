"""The coordinates and the variable in which the flow is integrated.

With `sigma_d` the size of the data, every affine law is a rotation from data to noise (see
`samplers/exponential/velocity_ab.py`),

    x = r z,  r = sqrt(sigma_d^2 a^2 + c^2),  phi = atan(c / (sigma_d a)),  lam = log(a / c)
    dz/dphi = v = (sigma_d a eps - (c / sigma_d) x0) / r,      dphi/dlam = -sigma_d a c / r^2

In z the linear part of the ODE is solved exactly, as in exponential integrators: Gaussian data of
standard deviation sigma_d do not move at all. A volume in x is `r^D` times the volume in z. There
are three variables:

    "t"      x itself over time, as in the original; r = 1
    "lam"    z over half the log-SNR, `lam = -log(c / a)`
    "angle"  z over phi; no factor grows at the two ends, which are long in lam

In t the ODE is stiff near eps, where c ~ sqrt(t), and the noisy part of VE and EDM is long.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

from samplers.exponential.velocity_ab import radius, velocity
from sde_lib import AffinePath, check_data_left, expand
from sde_lib.prediction import PredictFn

VARIABLES = ("t", "lam", "angle")


class Frame(NamedTuple):
    """A variable u from `start`, at eps, to `end`, at t1.

    `time(u) -> t`; `scale(t) -> r`; `slope(predict, z, u) -> dz/du`, for z `(B, ...)` and u `()`.
    """

    start: Array
    end: Array
    time: Callable[[Array], Array]
    scale: Callable[[Array], Array]
    slope: Callable[[PredictFn, Array, Array], Array]


def make_frame(path: AffinePath, variable: str, eps: Array, sigma_data: float) -> Frame:
    """The frame of a variable in `VARIABLES`, over the part of a law from eps to t1.

    Raises:
        ValueError: for another name, or a sigma_data that is not positive.
    """
    if variable not in VARIABLES:
        raise ValueError(f"The variable is {variable!r}; it must be one of {', '.join(VARIABLES)}.")
    if not 0.0 < sigma_data < np.inf:
        raise ValueError(f"sigma_data is {sigma_data}; the size of the data must be positive.")
    if variable == "t":
        t1 = jnp.asarray(path.t1, jnp.result_type(eps))
        slope = lambda predict, x, t: predict(x, t).velocity
        return Frame(eps, t1, lambda t: t, jnp.ones_like, slope)
    scale = lambda t: radius(path, sigma_data, t)

    def turn_rate(predict: PredictFn, z: Array, t: Array) -> Array:
        return velocity(path, sigma_data, predict(expand(scale(t), z) * z, t), t)

    check_data_left(path, f"the variable {variable!r}")
    ends = path.lam(jnp.stack([eps, jnp.asarray(path.t1, jnp.result_type(eps))]))
    if variable == "angle":
        time = lambda phi: path.t_of_sigma(sigma_data * jnp.tan(phi))
        start, end = jnp.arctan2(jnp.exp(-ends), jnp.asarray(sigma_data, ends.dtype))
        return Frame(start, end, time, scale, lambda p, z, phi: turn_rate(p, z, time(phi)))

    def slope(predict: PredictFn, z: Array, lam: Array) -> Array:
        t = path.t_of_lam(lam)
        a, c = path.coeffs(t)
        return -expand(sigma_data * a * c / scale(t) ** 2, z) * turn_rate(predict, z, t)

    return Frame(ends[0], ends[1], path.t_of_lam, scale, slope)
