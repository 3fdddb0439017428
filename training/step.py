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


def make_train_step(loss: LossFn, tx: optax.GradientTransformation, ema_decay: float) -> StepFn:
    """`(state, batch) -> (state, metrics)`.

    The key of step n is `fold_in(state.key, n)`. Metrics are those of the loss plus `grad_norm`,
    the global norm before clipping.
    """

    def step(state: TrainState, batch: dict[str, Array]):
        key = jax.random.fold_in(state.key, state.step)
        grads, metrics = jax.grad(loss, has_aux=True)(state.params, state, key, batch)
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        ema_params = ema_update(state.ema_params, params, state.step, ema_decay)
        metrics = {**metrics, "grad_norm": optax.global_norm(grads)}
        return TrainState(state.step + 1, params, ema_params, opt_state, state.key), metrics

    return step


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
