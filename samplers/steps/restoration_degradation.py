"""Restoration-degradation for the flow ODE: each step restores a cleaner state and degrades it.

Chen, Daras, Dimakis 2023 (arXiv 2303.03384). With `h = t - s` and a look-back `ell >= h`, a step

1. restores: the likely state x' at u = t - ell, given x at t;
2. computes the noise: the z of the forward law that leads from x' at u back to x at t;
3. degrades: the forward law from u to s, with that z and no fresh noise.

Step 3 scales the noise by `sqrt(ell - h)` instead of `sqrt(ell)`, which halves the score: for
`h << ell << 1` the step is one of the probability-flow ODE. Its bias is `h / (4 ell)` of the part
of the drift that comes from the noise. With `ell = c h` and a fixed c the method therefore does not
converge as h falls.
"""

from collections.abc import Callable

import jax.numpy as jnp
from jax import Array

from samplers.base import Sampler, State, start
from sde_lib import AffinePath, Coeffs, expand, reverse_drift
from sde_lib.affine import Transition
from sde_lib.base import SDE
from sde_lib.prediction import Prediction

LookBack = Callable[[Array, Array], Array]
"""`(t, h) -> ell`, times of shape `()` or `(B,)`. An ell below h counts as h, and an ell that
reaches beyond the first time of the law is cut at that time."""


def share_of_time(share: float) -> LookBack:
    """`ell = share t`: the method converges at order 1 in h, with an exact kernel."""
    return lambda t, h: share * t


def root_of_step(scale: float) -> LookBack:
    """`ell = scale sqrt(h)`, scale in sqrt(time): balances the errors O(ell) and O(h / ell)."""
    return lambda t, h: scale * jnp.sqrt(h)


def number_of_steps(count: float) -> LookBack:
    """`ell = count h`: leaves a bias of `1 / (4 count)`, unless the step has `root=False`."""
    return lambda t, h: count * h


def restoration_degradation(path: AffinePath, look_back: float | LookBack = 1.0) -> Sampler:
    """Restoration-degradation by the exact kernel of an affine law, one evaluation a step.

        x' = E[x_u | x],    z = (x - r x') / q,    x_s = r' x' + q' z,

    where `(r, q)` is the kernel from u to t and `(r', q')` the kernel from u to s.

    Args:
        look_back: ell as a share of t in (0, 1], or a rule. 1 goes back to the noise-free data
            (on VE, below its `sigma_min`), and is DDIM.

    A share below 1 keeps less of the noise than DDIM does, namely the part cos(angle) with the
    angle between `(r c_u, q)` and `(r' c_u, q')`. 1 is the recommended value.

    Raises:
        ValueError: for a share outside (0, 1].
    """
    if not callable(look_back) and not 0.0 < look_back <= 1.0:
        raise ValueError(
            f"look_back is {look_back}; as a share of t it must lie in (0, 1], where 1 is DDIM."
        )
    rule = look_back if callable(look_back) else share_of_time(look_back)

    def step(key, predict, state, span):
        t, s = span.t, span.s
        del key
        if look_back == 1.0:
            # Use exactly a = 1, c = 0 for the data: at u = 0 a law may still carry noise.
            (a_t, c_t), (a_s, c_s) = path.coeffs(t), path.coeffs(s)
            zero = jnp.zeros_like(c_t)
            at_u, to_t, to_s = Coeffs(zero + 1.0, zero), Transition(a_t, c_t), Transition(a_s, c_s)
        else:
            u = restored_time(rule, t, s)
            at_u, to_t, to_s = path.coeffs(u), path.forward_step(u, t), path.forward_step(u, s)
        restored, z = restore(predict(state.x, t), at_u, to_t, path.coeffs(t).c)
        return State(expand(to_s.r, z) * restored + expand(to_s.q, z) * z)

    return Sampler(start, step, nfe=1)


def restored_time(rule: LookBack, t: Array, s: Array, first: float = 0.0) -> Array:
    """`u = t - ell`, cut to at most s and at least `min(first, s)`."""
    return jnp.clip(t - rule(t, t - s), jnp.minimum(first, s), s)


def restore(
    prediction: Prediction, at_u: Coeffs, step: Transition, c_t: Array
) -> tuple[Array, Array]:
    """The mean of x_u given x_t, and the noise that leads from it to x_t.

    These are `(x + q^2 score) / r` and `(x - r x') / q`, written in the predicted data and noise so
    that nothing is divided by r and nothing cancels. `step` is the kernel from u to t.
    """
    x0, eps = prediction.x0, prediction.eps
    restored = expand(at_u.a, x0) * x0 + expand(step.r * at_u.c**2 / c_t, eps) * eps
    return restored, expand(step.q / c_t, eps) * eps


def euler_restoration(sde: SDE, look_back: float | LookBack = 0.5, root: bool = True) -> Sampler:
    """Restoration-degradation for any law, linear or not, by its Euler kernel.

        x' = x - ell R(x, t),                           R = f - div(G G^T) - G G^T score
        x_s = x' + (ell - h) f(x', u) + sqrt((ell - h) / ell) (x - x' - ell f(x', u))

    which is computed as `x - h [(1 - w) f(x', u) + w R(x, t)]`, `w = 1 / (1 + sqrt(1 - h / ell))`.
    G cancels, so it may depend on the state, as in `reverse_drift`.

    Args:
        look_back: c of `ell = c sqrt(h)`, or a rule. The error is of the order `ell + h / ell`.
        root: False replaces the root by `1 - h / (2 ell)` and w by 1/2. The error is then of the
            order ell for any h / ell, so `number_of_steps` converges too, at order 1.

    Only the score of a prediction is read (`sde_lib.score_only` makes a prediction from a score).

    Raises:
        ValueError: for a c that is not above 0.
    """
    if not callable(look_back) and not look_back > 0.0:
        raise ValueError(f"look_back is {look_back}; as c of c sqrt(h) it must be above 0.")
    rule = look_back if callable(look_back) else root_of_step(look_back)

    def step(key, predict, state, span):
        t, s = span.t, span.s
        del key
        x, h = state.x, t - s
        u = restored_time(rule, t, s, sde.t0)
        reverse = reverse_drift(sde, lambda x, t: predict(x, t).score)(x, t)
        forward = sde.drift(x - expand(t - u, x) * reverse, u)
        # Grids are padded at their end with steps of length zero, where ell = t - u may be 0.
        part = jnp.where(h > 0.0, h / jnp.where(h > 0.0, t - u, 1.0), 0.0)
        w = expand(1.0 / (1.0 + jnp.sqrt(jnp.maximum(1.0 - part, 0.0))) if root else 0.5, x)
        return State(x - expand(h, x) * ((1.0 - w) * forward + w * reverse))

    return Sampler(start, step, nfe=1)
