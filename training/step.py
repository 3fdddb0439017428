"""One optimizer update, as a pure function."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array

from losses.denoising import LossFn
from training.state import TrainState

StepFn = Callable[[TrainState, dict[str, Array]], tuple[TrainState, dict[str, Array]]]


def make_train_step(
    loss: LossFn, tx: optax.GradientTransformation, ema_decay: float, accumulate: int = 1
) -> StepFn:
    """`(state, batch) -> (state, metrics)`.

    The key of step n is `fold_in(state.key, n)`. Metrics are those of the loss plus `grad_norm`,
    the global norm before clipping. Where either is not finite, nothing but the step changes. With
    `accumulate` above 1 the gradient is taken in so many passes, see `accumulated`.
    """
    gradient = jax.grad(loss, has_aux=True)
    if accumulate > 1:
        gradient = accumulated(gradient, accumulate)

    def step(state: TrainState, batch: dict[str, Array]):
        key = jax.random.fold_in(state.key, state.step)
        grads, metrics = gradient(state.params, state, key, batch)
        metrics = {**metrics, "grad_norm": optax.global_norm(grads)}
        finite = jnp.isfinite(metrics["loss"]) & jnp.isfinite(metrics["grad_norm"])

        def update(grads, params, ema_params, opt_state):
            updates, opt_state = tx.update(grads, opt_state, params)
            params = optax.apply_updates(params, updates)
            return params, ema_update(ema_params, params, state.step, ema_decay), opt_state

        # A branch, not a choice leaf by leaf, which would copy the whole state: on CPUs that takes
        # a fifth of the step of DDPM for CIFAR-10.
        before = (state.params, state.ema_params, state.opt_state)
        after = jax.lax.cond(finite, update, lambda _, *old: old, grads, *before)
        return TrainState(state.step + 1, *after, state.key), metrics

    return step


def accumulated(gradient: Callable, passes: int) -> Callable:
    """The mean gradient over a batch in equal parts, one after the other: the memory is that of
    one part. Part i has the key `fold_in(key, i)`, and every `passes`-th example from the i-th on.
    """

    def mean(params, state, key, batch):
        # Interleaved: so each device finds the examples of a part among its own.
        parts = jax.tree.map(
            lambda v: jnp.moveaxis(v.reshape(-1, passes, *v.shape[1:]), 1, 0), batch
        )
        keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(passes))

        def add(total, part):
            # Unrolled, parts would be computed side by side, and their memory would add up.
            total, part = jax.lax.optimization_barrier((total, part))
            grads, metrics = gradient(params, state, *part)
            return jax.tree.map(jnp.add, total, grads), metrics

        # On CPUs the gradient of a convolution is slow in a loop, see `scan_steps`.
        unroll = passes if jax.default_backend() == "cpu" else 1
        zeros = jax.tree.map(jnp.zeros_like, params)
        total, metrics = jax.lax.scan(add, zeros, (keys, parts), unroll=unroll)
        grads = jax.tree.map(lambda g: g / passes, total)
        # A metric is a number for the part, or one for each example of it.
        whole = lambda v: jnp.mean(v) if v.ndim == 1 else v.reshape(-1)
        return grads, jax.tree.map(whole, metrics)

    return mean


def ema_update(ema: Any, params: Any, step: Array, decay: float) -> Any:
    """Exponential moving average of the updated parameters, with a start that forgets the init.

    The rate after n updates is `min(decay, (1 + n) / (10 + n))`: with a constant 0.9999 the random
    initialisation would still weigh 0.37 after 10,000 steps; so it has gone after a few dozen.
    """
    n = step.astype(jnp.float32)
    rate = jnp.minimum(decay, (1.0 + n) / (10.0 + n))
    return jax.tree.map(lambda e, p: e + (1.0 - rate) * (p - e), ema, params)


def scan_steps(step: StepFn, n: int) -> StepFn:
    """n steps in one call; batch and metrics have a leading axis n. For n = 1, the step itself.

    A scan saves the dispatch of short steps on accelerators. On CPUs the gradient of a convolution
    inside a loop is many times slower than outside, so there n stays 1 (`benchmarks/README.md`).
    """
    if n == 1:
        return step
    return lambda state, batches: jax.lax.scan(step, state, batches, length=n)
