"""Latents of the probability-flow ODE: each example has one code, and each code one example.

The flow `d x / dt = velocity(x, t)` (Song et al. 2021, eq. 13) carries data at eps to the prior at
t1, and backwards the prior to data. It has no noise in it, so it is a bijection, and what it makes
of an example is a code of the same shape (section 4.3, "Manipulating latent representations"):

    z = x(t1) / prior_std,     x(eps) = x,     z ~ N(0, I) where the model is that of the data

The code depends on the law and on the scores `grad log p_t` of the data, and on nothing else: two
networks that have both learned them give the same one ("uniquely identifiable encoding", section
4.3 and appendix D.5; `tools/identifiability.py`). In units of the prior's standard deviation codes
of different laws are of one size. Blends of two codes are in `samplers/around/interpolation.py`.

Here no divergence is integrated, which `log_likelihood` needs beside x: a step costs an evaluation
of the network and not one with its derivative. Its `latent` is this code before the division.
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
    of the network; `failed` `(B,)`, the solve did not reach t1, or met a value that is not finite:
    z is nan there."""

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
        x: data as the model sees them, dequantised if they are levels; taken to be a draw of the
            law at eps.
        solver: to a tolerance, each example with steps of its own, or in a fixed number of steps
            (`Adams`), for which the numbers of the law must be known when the program is built.
            Either way no example depends on the others.
        eps: where the path starts; the law's `t0` if not given.
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
    """What `encode` has encoded: codes z `(B, ...)` to data at eps, by the flow from t1.

    The result's `x` is `(B, ...)` in the units of the model, nan where `failed`; `nfe` and `failed`
    are `(B,)`. With `denoise` it is the conditional mean of the data at eps, one more evaluation:
    then it is no longer the inverse of `encode`, by the size of the noise at eps. Raises as that.
    """
    eps = path.t0 if eps is None else eps
    x, nfe, failed = move(path, predict, path.prior_std() * z, solver, eps, "data", cond)
    if denoise:
        x, nfe = bound(predict, cond)(x, jnp.asarray(eps, x.dtype)).x0, nfe + 1
    return finished(x, None, nfe, failed)


def round_trip_error(x: Array, back: Array) -> Array:
    """Root mean square over the dimensions of an example, `(B, ...)` to `(B,)`, in units of x.

    Of `back = decode(encode(x))` it is the error of two solves and of nothing else: the flow of any
    network, trained or not, is a bijection. nan where a solve failed.
    """
    return rms(back - x)


def temperature(z: Array, tau: float) -> Array:
    """`tau z`: draws of N(0, I) become those of N(0, tau^2 I); below 1 samples are more typical and
    less varied (Song et al. 2021, appendix D.4). Not a temperature of the density of the data.

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
    """The end of the flow, `to` "noise" at t1 or "data" at eps, by whichever solver."""
    if isinstance(solver, Adams):
        return fixed(path, bound(predict, cond), x, solver, eps, to)
    return flow(path, predict, x, eps, solver, to, cond=cond)


def fixed(
    path: AffinePath, predict: PredictFn, x: Array, solver: Adams, eps: float, to: str
) -> Solved:
    """By `Adams`, the whole batch on one grid: that of the likelihood, or the same backwards."""
    # Where the law is known its numbers stay numbers, also under `jit`.
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
