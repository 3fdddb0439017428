"""Guidance by an energy, a function to be minimised.

    score' = score - scale grad E,    E(x0, t) through the network, or E(x, t) of the state itself

`exp(-scale E)` acts as a likelihood of the data, with `grad = (d x0 / d x)^T dE / d x0` as in DPS,
or of the noisy state. In an edit, one energy acts in a region m, and another one, such as the
distance from the original image, outside of m (Mou et al. 2024, DiffEditor, arXiv 2402.02583):

    grad E = m grad E_edit + (1 - m) grad E_content

In that paper the guided noise changes only x0, and the direction of a DDIM step is that of the
network, `x_s = a_s x0' + c_s eps`. The option `plain_eps` does the same.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from guidance.base import GuideFn, check_path, with_pullback, with_score
from sde_lib import AffinePath, expand
from sde_lib.prediction import Cond, PredictFn, Prediction, bound

EnergyFn = Callable[[Array, Array], Array]

VARIABLES = ("time", "lam")


def energy_guidance(
    path: AffinePath,
    energy: EnergyFn,
    scale: float = 1.0,
    *,
    of: str = "x0",
    content: EnergyFn | None = None,
    mask: np.ndarray | Array | None = None,
    window: tuple[float, float] | None = None,
    variable: str = "time",
    plain_eps: bool = False,
) -> GuideFn:
    """The guide by an energy's gradient, for any affine law.

    Args:
        energy: `(x, t) -> (B,)`, to be minimised; x is `(B, ...)`, t `()` or `(B,)`.
        scale: in units of 1 / energy. It is not scaled by the noise level.
        of: "x0", the conditional mean, through the network; or "x", the state.
        content: a second energy that acts where the mask is 0; none by default.
        mask: m, of the shape of one state or broadcasting to it, from 0 to 1; 1 by default.
        window: `(low, high)`, both included; there is no guidance outside of it. Its unit is
            `t / t1` for the variable "time", and the half log-SNR for "lam".
        variable: "time" or "lam", the unit of the window.
        plain_eps: keep the network's `eps`. `x = a x0 + c eps` then no longer holds, so this is
            meant for DDIM only.

    The guide costs one evaluation, and for "x0" one backward pass for each energy.

    Raises:
        ValueError: for a law that is not affine, a scale that is not finite, an unknown `of` or
            variable, a content without a mask, a mask outside [0, 1], or a window that is empty.
    """
    check_path(path)
    check_energy(scale, of, content, mask, window, variable)
    region = 1.0 if mask is None else jnp.asarray(mask)[None]

    def gradient_of(value: EnergyFn, x: Array, t: Array) -> Array:
        return jax.grad(lambda x: jnp.sum(value(x, t)))(x)

    def active(t: Array) -> Array:
        if window is None:
            return jnp.ones_like(t)
        place = t / path.t1 if variable == "time" else path.lam(t)
        return ((window[0] <= place) & (place <= window[1])).astype(t.dtype)

    def guide(predict: PredictFn) -> PredictFn:
        def guided(x: Array, t: Array, cond: Cond = None) -> Prediction:
            told = bound(predict, cond)
            t = jnp.asarray(t, jnp.promote_types(x.dtype, jnp.float32))
            if of == "x0":
                plain, pullback = with_pullback(told, x, t)
                value_at = plain.x0
            else:
                plain, pullback, value_at = told(x, t), lambda u: u, x
            total = region * pullback(gradient_of(energy, value_at, t))
            if content is not None:
                rest = pullback(gradient_of(content, value_at, t))
                total = total + (1.0 - region) * rest
            # `where` and not a product: outside of the window the gradient may be infinite or nan.
            on = expand(active(t), x)
            pull = jnp.where(on > 0.0, -scale * total, 0.0)
            moved = with_score(path, plain, x, t, pull)
            return moved._replace(eps=plain.eps) if plain_eps else moved

        return guided

    return guide


def check_energy(scale, of, content, mask, window, variable) -> None:
    if not np.isfinite(scale):
        raise ValueError(f"The scale of an energy is {scale}; it must be finite.")
    if of not in ("x0", "x"):
        raise ValueError(f"An energy is of {of!r}; it must be 'x0' or 'x'.")
    if variable not in VARIABLES:
        raise ValueError(f"variable is {variable!r}; it must be one of {', '.join(VARIABLES)}.")
    if content is not None and mask is None:
        raise ValueError("There is an energy of the content and no mask; say where it acts by one.")
    if mask is not None and not np.all((np.asarray(mask) >= 0.0) & (np.asarray(mask) <= 1.0)):
        raise ValueError(
            f"The mask goes from {np.min(mask):g} to {np.max(mask):g}; it must lie within 0 to 1."
        )
    if window is not None and not window[0] <= window[1]:
        raise ValueError(f"The window is {window}; its low end must not lie above its high end.")
