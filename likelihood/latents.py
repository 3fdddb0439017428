"""Latents of the probability-flow ODE: a bijection between examples and codes.

The flow `d x / dt = velocity(x, t)` (Song et al. 2021, eq. 13) maps data at eps to the prior at t1,
and backwards the prior to data. The flow has no noise, so it is a bijection, and the image of an
example is a code of the same shape (section 4.3, "Manipulating latent representations"):

    z = x(t1) / prior_std,     x(eps) = x,     z ~ N(0, I) where the model is that of the data

The code depends only on the law and on the scores `grad log p_t` of the data, so two networks that
have learned the scores give the same code ("uniquely identifiable encoding", section 4.3 and
appendix D.5; `tools/identifiability.py`). In units of the prior's standard deviation, the codes of
different laws have the same size. Blends of two codes are in `samplers/around/interpolation.py`.

No divergence is integrated here, unlike in `log_likelihood`, so a step costs one evaluation of the
network without its derivative. The field `latent` of `log_likelihood` is this code before the
division.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from likelihood.adams import Adams, advance, lay_out
from samplers.adaptive.diffrax_solves import flow
from samplers.adaptive.frame import make_frame
from samplers.adaptive.solver import Solved, Solver
from samplers.base import SampleResult, finished, finite
from sde_lib import AffinePath, expand, rms
from sde_lib.prediction import Cond, PredictFn, bound


class Latents(NamedTuple):
    """`z` `(B, ...)`, codes in units of the prior's standard deviation; `nfe` `(B,)`, evaluations
    of the network; `failed` `(B,)`, whether the solve did not reach t1 or met a value that is not
    finite; there z is nan."""

    z: Array
    nfe: Array
    failed: Array


def encode(
    path: AffinePath,
    predict: PredictFn,
    x: Array,
    solver: Solver | Adams = Solver(),  # noqa: B008 - an immutable tuple of numbers
    eps: float | None = None,
    cond: Cond = None,
) -> Latents:
    """The codes of `x` `(B, ...)`, by the flow from eps to t1.

    Args:
        predict: `(x, t, cond=None) -> Prediction`; the field comes from it.
        x: data as the model sees them, dequantised if they are levels. They are treated as a draw
            of the law at eps.
        solver: to a tolerance, with steps of its own for each example; or in a fixed number of
        steps
            (`Adams`), for which the numbers of the law must be known when the program is built. In
            both cases no example depends on the others.
        eps: the time at which the path starts; the law's `t0` if not given.
        cond: the condition of each example. A code decoded under another condition is a
            translation of its example.

    Raises:
        ValueError: for numbers of the solver that are out of range.
    """
    end = move(path, predict, x, solver, path.t0 if eps is None else eps, "noise", cond)
    return Latents(end.y / path.prior_std(), end.nfe, end.failed)


def decode(
    path: AffinePath,
    predict: PredictFn,
    z: Array,
    solver: Solver | Adams = Solver(),  # noqa: B008 - an immutable tuple of numbers
    eps: float | None = None,
    denoise: bool = False,
    cond: Cond = None,
) -> SampleResult:
    """The inverse of `encode`: data at eps from codes z `(B, ...)`, by the flow from t1.

    The result's `x` is `(B, ...)` in the units of the model, nan where `failed`; `nfe` and `failed`
    are `(B,)`. With `denoise` the result is the conditional mean of the data at eps, for one more
    evaluation; it then differs from the inverse of `encode` by the size of the noise at eps. Raises
    the errors of `encode`.
    """
    eps = path.t0 if eps is None else eps
    x, nfe, failed = move(path, predict, path.prior_std() * z, solver, eps, "data", cond)
    if denoise:
        x, nfe = bound(predict, cond)(x, jnp.asarray(eps, x.dtype)).x0, nfe + 1
    return finished(x, None, nfe, failed)


def round_trip_error(x: Array, back: Array) -> Array:
    """Root mean square over the dimensions of an example, `(B, ...)` to `(B,)`, in units of x.

    For `back = decode(encode(x))` this is the error of the two solves alone, because the flow of
    any network, trained or not, is a bijection. The error is nan where a solve failed.
    """
    return rms(back - x)


def temperature(z: Array, tau: float) -> Array:
    """`tau z`, which turns draws of N(0, I) into draws of N(0, tau^2 I). For tau below 1 samples
    are more typical and less varied (Song et al. 2021, appendix D.4). tau is no temperature of the
    density of the data.

    Raises:
        ValueError: for a tau that is not positive and finite.
    """
    if not 0.0 < tau < float("inf"):
        raise ValueError(f"The temperature is {tau}; it must be positive and finite.")
    return tau * z


def move(
    path: AffinePath,
    predict: PredictFn,
    x: Array,
    solver: Solver | Adams,
    eps: float,
    to: str,
    cond: Cond = None,
) -> Solved:
    """The end of the flow, `to` "noise" at t1 or "data" at eps, by either kind of solver."""
    if isinstance(solver, Adams):
        return fixed(path, bound(predict, cond), x, solver, eps, to)
    return flow(path, predict, x, eps, solver, to, cond=cond)


def fixed(
    path: AffinePath, predict: PredictFn, x: Array, solver: Adams, eps: float, to: str
) -> Solved:
    """The flow by `Adams`, the whole batch on the grid of the likelihood, in either direction."""
    # The numbers of a law that is known stay numbers, also under `jit`.
    with jax.ensure_compile_time_eval():
        low, high = (jnp.asarray(t, x.dtype) for t in (eps, path.t1))
        frame = make_frame(path, solver.variable, low, solver.sigma_data)
    us = lay_out(solver, frame)
    begin, end = low, high
    if to == "data":
        us, begin, end = us[::-1], high, low
    field = lambda u, z: frame.slope(predict, z, u)
    z, nfe, _ = advance(field, x / frame.scale(begin), us, solver.order)
    y = frame.scale(end) * z
    failed = ~finite(y)
    hidden = jnp.where(expand(failed, y), jnp.nan, y)
    return Solved(hidden, jnp.full(failed.shape, nfe), failed)
