"""Optimizers. `OPTIMIZERS` maps the names in a config (`optim.optimizer`) to constructors.

The section `optim` has the keyword arguments of the chosen constructor.
"""

import jax
import optax

from models.embeddings import frozen
from sde_lib.ranges import below_one, not_negative, one_of, positive


def adam(
    n_iters: int,
    *,
    lr: float = 2e-4,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    warmup: int = 5000,
    grad_clip: float = 1.0,
    schedule: str = "constant",
) -> optax.GradientTransformation:
    """Adam with a linear warm-up, then a constant or cosine rate, and clipping by the global norm.

    Gradients are clipped before they enter Adam.

    Args:
        n_iters: number of updates of the run; the cosine schedule is zero at its end.
        lr: the learning rate after the warm-up.
        beta1, beta2, eps: of Adam.
        weight_decay: decoupled weight decay, multiplied by the learning rate as in the original;
            parameters that are never trained do not decay.
        warmup: number of updates in which the rate rises linearly from zero.
        grad_clip: the largest global norm of a gradient; 0 switches clipping off.
        schedule: "constant", or "cosine", which falls to zero at the end of the run.

    Raises:
        ValueError: for a number out of its range, or an unknown schedule.
    """
    positive(lr=lr, eps=eps)
    below_one(beta1=beta1, beta2=beta2)
    not_negative(weight_decay=weight_decay, warmup=warmup, grad_clip=grad_clip)
    one_of(("constant", "cosine"), schedule=schedule)
    rising = optax.linear_schedule(0.0, lr, max(warmup, 1))
    if schedule == "cosine":
        after = optax.cosine_decay_schedule(lr, max(n_iters - warmup, 1))
    else:
        after = optax.constant_schedule(lr)
    rate = optax.join_schedules([rising, after], [warmup]) if warmup else after
    steps = optax.chain(
        optax.scale_by_adam(b1=beta1, b2=beta2, eps=eps),
        decay_trained(weight_decay),
        optax.scale_by_learning_rate(rate),
    )
    clip = optax.clip_by_global_norm(grad_clip) if grad_clip else optax.identity()
    return optax.chain(clip, steps)


def decay_trained(weight_decay: float) -> optax.GradientTransformation:
    """`g + weight_decay p`; for `frozen` parameters g alone.

    The optimizer state is that of `optax.add_decayed_weights` without a mask, as in checkpoints.
    """

    def update(updates, state, params):
        add = lambda path, g, p: g if frozen(path, p) else g + weight_decay * p
        return jax.tree_util.tree_map_with_path(add, updates, params), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


OPTIMIZERS = {"adam": adam}
