"""Optimizers. `OPTIMIZERS` is the table of names for a config (`optim.optimizer`), whose section
`optim` holds the keyword arguments of the one that is named."""

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
    """Adam with linear warm-up, then constant or cosine; clipping by the global norm first.

    Args:
        n_iters: updates of the run, at whose end the cosine is zero.
        lr: the learning rate after the warm-up.
        beta1, beta2, eps: of Adam.
        weight_decay: decoupled, and multiplied by the learning rate as in the original; what is
            never trained does not decay.
        warmup: updates in which the rate rises from zero.
        grad_clip: the largest global norm of a gradient; 0 switches clipping off.
        schedule: "constant", or "cosine", to zero at the end.

    Raises:
        ValueError: for a number out of its range, or another schedule.
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
    """`g + weight_decay p`, but g for what is `frozen`. The state is that of
    `optax.add_decayed_weights` without a mask, as checkpoints have it."""

    def update(updates, state, params):
        add = lambda path, g, p: g if frozen(path, p) else g + weight_decay * p
        return jax.tree_util.tree_map_with_path(add, updates, params), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


OPTIMIZERS = {"adam": adam}
