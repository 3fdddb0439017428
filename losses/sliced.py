"""Sliced score matching, for laws without a kernel (Song, Garg, Shi, Ermon 2019, arXiv 1905.07088).

    loss = E_t E_x0 E_x|x0 E_v  v . (ds/dx) v + |s|^2 / 2,    s = s(x, t), v random signs

Denoising needs the score of the kernel from x0 to x_t, which only affine laws have. Here x_t is
drawn by simulating the law, and integration by parts removes the target (Hyvarinen 2005, theorem
1): the loss is `E |s - grad log p_t|^2 / 2` minus a constant that does not depend on the network.
The projection is the variant with `|s|^2` not projected (section 3.2 of Song et al. 2019). Random
signs make it exact in one dimension.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from losses.denoising import LossFn, NetworkFn
from losses.time_sampling import stratified
from sde_lib import rows, split
from sde_lib.base import SDE
from sde_lib.noise import rademacher_like
from sde_lib.simulate import simulate

LABELS = {"t": lambda sde, t: t, "label": lambda sde, t: 999.0 * t / sde.t1}


def sliced_loss(
    sde: SDE,
    network: NetworkFn,
    conditioning: str = "t",
    *,
    steps: int = 100,
    stratify: bool = True,
    reduce_mean: bool = True,
    base: Callable[[Array], Array] | None = None,
) -> LossFn:
    """Builds the loss `(params, others, key, batch) -> (scalar, metrics)`.

    Args:
        network: `(params, x, cond, dropout_key) -> F`, with the score `s = F`, or `base(x) + F`.
        conditioning: a name in `LABELS`, the network's time input for a law without a log-SNR.
        steps: Euler-Maruyama steps from t0 to each example's t, without the network. Their bias is
            of the order `(t1 - t0) / steps`, and the network learns the law with that bias.
        stratify: spread the times of a batch evenly over [t0, t1].
        reduce_mean: mean over the dimensions; otherwise their sum.
        base: a function that is added to the output, such as `DoubleWell.prior_score`, which gives
            the reason.

    All times have the same weight. The loss may be negative: at the optimum it is
    `-E |grad log p_t|^2 / 2`. A training step takes one forward derivative of the network, in any
    dimension. `batch["x0"]` holds
    scaled data `(B, ...)`. The metrics are the loss and the times `t` (B,).

    Raises:
        ValueError: for another conditioning, or fewer than one step.
    """
    if conditioning not in LABELS:
        raise ValueError(
            f"prediction.conditioning is {conditioning!r}; a law without a kernel has no noise "
            f"level to tell, so take one of {', '.join(LABELS)}."
        )
    if steps < 1:
        raise ValueError(f"steps is {steps}; the simulation to x_t needs at least 1.")

    def loss(params, others, key: Array, batch: dict[str, Array]):
        del others
        draw_key, dropout_key = jax.random.split(key)
        x, t, v = draw(sde, draw_key, batch["x0"], steps, stratify)
        cond = LABELS[conditioning](sde, t)

        def score(x: Array) -> Array:
            output = network(params, x, cond, dropout_key).astype(x.dtype)
            return output if base is None else base(x) + output

        terms = sliced_terms(score, x, v)
        flat = rows(terms)
        value = jnp.mean(jnp.mean(flat, -1) if reduce_mean else jnp.sum(flat, -1))
        return value, {"loss": value, "t": t}

    return loss


def draw(sde: SDE, key: Array, x0: Array, steps: int, stratify: bool) -> tuple[Array, Array, Array]:
    """States `(B, ...)`, their times `(B,)` and the signs they are projected on."""
    time_key, path_key, sign_key = split(key, 3)
    size = x0.shape[0]
    u = stratified(time_key, size) if stratify else jax.random.uniform(time_key, (size,))
    t = sde.t0 + u * (sde.t1 - sde.t0)
    return simulate(sde, path_key, x0, t, steps), t, rademacher_like(sign_key, x0)


def sliced_terms(score, x: Array, v: Array) -> Array:
    """`v (ds/dx v) + s^2 / 2` of each element, shape of x; `score` maps x to its shape."""
    value, slope = jax.jvp(score, (x,), (v,))
    return v * slope + 0.5 * value**2
