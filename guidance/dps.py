"""Diffusion posterior sampling (Chung et al. 2023, arXiv 2209.14687).

The data given x_t are replaced by a point, their conditional mean x0:

    p(y | x_t) ~ N(y; A x0, noise_std^2 I),    g = J^T A^T (y - A x0) / noise_std^2.

This neglects the spread of the data given x_t, so y has too much weight at large noise, and the
variance of the samples is too small. For a scalar N(0, s^2), y = x0 + n and
`k = s^2 / (2 noise_std^2)`, the flow with this guide ends, for every affine law, in

    mean  2 sqrt(k) F(sqrt(k)) y,    variance  s^2 exp(-2 k),      F the integral of Dawson,

while the posterior has the mean `2 k / (1 + 2 k) y` and the variance `s^2 / (1 + 2 k)`.
"""

import jax.numpy as jnp
from jax import Array

from guidance.base import GuideFn, check_problem, residual, through_network, with_pullback
from operators import LinearOperator
from samplers import Sampler, Span, State
from sde_lib import AffinePath, dot, expand
from sde_lib.prediction import PredictFn


def dps(
    path: AffinePath, operator: LinearOperator, y: Array, noise_std: float, zeta: float = 1.0
) -> GuideFn:
    """`g = zeta J^T A^T (y - A x0) / noise_std^2`, the likelihood of the conditional mean.

    Args:
        y: `shape_out`, one measurement for all, or `(B, *shape_out)`.
        zeta: weight of the likelihood's gradient; 1 is the likelihood itself.

    The guide costs one evaluation and one backward pass. The gradient is stiff if noise_std is
    small. The published step size changes the steps and not the score; see `dps_steps`.

    Raises:
        ValueError: for a law that is not affine, a y that does not fit the operator, a noise_std
            that is not positive, or a negative zeta.
    """
    check_problem(path, operator, y, noise_std, noiseless=False)
    check_zeta(zeta)
    strength = zeta / noise_std**2
    return through_network(
        path, lambda x0, t: strength * operator.adjoint(residual(operator, y, x0))
    )


def dps_steps(
    path: AffinePath, base: Sampler, operator: LinearOperator, y: Array, zeta: float = 1.0
) -> Sampler:
    """`base`, and after each step `x_s - (zeta / |r|) grad_x |r|^2`, `r = y - A x0(x_t)`.

    Algorithm 1 with the step size of the paper's experiments, `zeta / |r|` (appendix D; there 0.3
    to 1 for a thousand steps). The displacement of a step does not depend on its length. Samples
    therefore depend on the number of steps and on the scale of the law; noise_std is not used.

    Args:
        base: a sampler of one evaluation a step, which the gradient shares.

    Raises:
        ValueError: as `dps`, or for a base of several evaluations a step.
    """
    check_problem(path, operator, y, 0.0)
    check_zeta(zeta)
    if base.nfe != 1:
        raise ValueError(
            f"The sampler makes {base.nfe} evaluations a step and DPS shares one with it; take one "
            "such as ancestral or ddim, or the guide `dps`."
        )

    def step(key: Array, predict: PredictFn, state: State, span: Span) -> State:
        prediction, pullback = with_pullback(predict, state.x, span.t)
        r = residual(operator, y, prediction.x0)
        size = jnp.sqrt(dot(r, r))
        gradient = -2.0 * pullback(operator.adjoint(r))
        moved = base.step(key, lambda x, t: prediction, state, span)
        scale = jnp.where(size > 0.0, zeta / jnp.where(size > 0.0, size, 1.0), 0.0)
        return State(moved.x - expand(scale, gradient) * gradient, moved.memory)

    return base._replace(step=step, kernel=None)


def check_zeta(zeta: float) -> None:
    if not 0.0 <= zeta < float("inf"):
        raise ValueError(f"zeta is {zeta}; the strength of the guide must not be negative.")
