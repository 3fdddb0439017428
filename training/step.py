"""One optimizer update, as a pure function.

Most runs train one network. If several networks are trained in turn, such as a generator and its
discriminator, each is a `Player` with its own loss, optimizer and average, and one step updates
them one after another. Networks that are not trained, such as a teacher, are an argument of the
step, so that their parameters are not constants of the compiled program.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from losses.denoising import LossFn
from losses.needs import MAIN
from training.state import PlayerState, TrainState

StepFn = Callable[..., tuple[TrainState, dict[str, Array]]]


class Player(NamedTuple):
    """How a network is trained: its loss, its optimizer and the decay of its average.

    The network is updated at the steps that are a multiple of `every`.
    """

    loss: LossFn
    tx: optax.GradientTransformation
    ema_decay: float
    every: int = 1


def make_train_step(
    loss: LossFn,
    tx: optax.GradientTransformation,
    ema_decay: float,
    accumulate: int = 1,
    others: Mapping[str, Player] | None = None,
) -> StepFn:
    """Make the step, `(state, batch, frozen={}) -> (state, metrics)`.

    The key of step n is `fold_in(state.key, n)`. Metrics are those of the loss and `grad_norm`, the
    global norm of the gradient before clipping. If the loss or `grad_norm` is not finite, the step
    is skipped: only `state.step` changes.

    Args:
        loss, tx, ema_decay: of the network that is sampled from.
        accumulate: number of passes in which the gradient is computed, see `accumulated`.
        others: further players, by name. They move after the main player, in the order of the
            mapping; player i, from 1, has the key `fold_in(key, 2**32 - i)`. Each loss gets the
            newest parameters of all other players, the main one as `MAIN`, and those in `frozen`.
            The names of their metrics begin with `<name>_`; `<name>_turns` is 1 at steps where the
            player moved, else 0. A step is skipped for all players or for none.
    """
    main, others = Player(loss, tx, ema_decay), dict(others or {})

    def step(state: TrainState, batch: dict[str, Array], frozen: Mapping[str, Any] | None = None):
        key = jax.random.fold_in(state.key, state.step)
        if not others:
            moved, metrics, _ = move(main, state.main, dict(frozen or {}), state.step, key, batch)
            return updated(state, moved, {}), metrics
        return several(state, batch, dict(frozen or {}), key)

    def several(state: TrainState, batch, frozen, key: Array):
        now, metrics, good = {MAIN: state.main, **state.others}, {}, jnp.asarray(True)
        for i, (name, player) in enumerate({MAIN: main, **others}.items()):
            seen = {other: each.params for other, each in now.items() if other != name}
            own = jax.random.fold_in(key, 2**32 - i) if i else key
            turn = partial(
                move, player, now[name], {**frozen, **seen}, state.step // player.every, own, batch
            )
            if name == MAIN:
                now[name], metrics, finite = turn()
            else:
                acts = state.step % player.every == 0
                now[name], found, finite = jax.lax.cond(acts, turn, idle(turn, now[name]))
                metrics |= {f"{name}_{k}": v for k, v in found.items()}
                metrics[f"{name}_turns"] = acts.astype(jnp.float32)
            good = good & finite
        before = {MAIN: state.main, **state.others}
        after = jax.lax.cond(good, lambda a, b: a, lambda a, b: b, now, before)
        return updated(state, after.pop(MAIN), after), metrics

    def move(player: Player, old: PlayerState, seen, n: Array, key: Array, batch):
        """The player after its update, its metrics, and whether loss and gradient are finite.

        If they are not finite, the player is unchanged.
        """
        gradient = jax.grad(player.loss, has_aux=True)
        if accumulate > 1:
            gradient = accumulated(gradient, accumulate)
        grads, metrics = gradient(old.params, seen, key, batch)
        metrics = {**metrics, "grad_norm": optax.global_norm(grads)}
        finite = jnp.isfinite(metrics["loss"]) & jnp.isfinite(metrics["grad_norm"])

        def update(grads, old: PlayerState) -> PlayerState:
            updates, opt_state = player.tx.update(grads, old.opt_state, old.params)
            params = optax.apply_updates(old.params, updates)
            average = ema_update(old.ema_params, params, n, player.ema_decay)
            return PlayerState(params, average, opt_state)

        # `cond` and not `where` leaf by leaf, which would copy the whole state: on CPUs the copy
        # takes a fifth of the step of DDPM for CIFAR-10.
        moved = jax.lax.cond(finite, update, lambda _, old: old, grads, old)
        return moved, metrics, finite

    return step


def idle(turn: Callable, player: PlayerState) -> Callable:
    """The turn of a player that waits: the player is unchanged, and its metrics are zero."""
    _, metrics, _ = jax.eval_shape(turn)
    zeros = lambda: jax.tree.map(lambda v: jnp.zeros(v.shape, v.dtype), metrics)
    return lambda: (player, zeros(), jnp.asarray(True))


def updated(state: TrainState, main: PlayerState, others: dict[str, PlayerState]) -> TrainState:
    """The state after a step."""
    return TrainState(
        state.step + 1, main.params, main.ema_params, main.opt_state, state.key, others
    )


def accumulated(gradient: Callable, passes: int) -> Callable:
    """Compute the mean gradient over a batch in `passes` equal parts, one after another.

    The memory is that of one part. Part i has the examples i, i + passes, i + 2 passes, ... and the
    key `fold_in(key, i)`.
    """

    def mean(params, others, key, batch):
        # Parts are interleaved, so that each device has the examples of every part locally.
        parts = jax.tree.map(
            lambda v: jnp.moveaxis(v.reshape(-1, passes, *v.shape[1:]), 1, 0), batch
        )
        keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(passes))

        def add(total, part):
            # Without the barrier XLA computes unrolled parts side by side, in the memory of all.
            total, part = jax.lax.optimization_barrier((total, part))
            grads, metrics = gradient(params, others, *part)
            return jax.tree.map(jnp.add, total, grads), metrics

        # On CPUs the gradient of a convolution is slow in a loop, see `scan_steps`.
        unroll = passes if jax.default_backend() == "cpu" else 1
        zeros = jax.tree.map(jnp.zeros_like, params)
        total, metrics = jax.lax.scan(add, zeros, (keys, parts), unroll=unroll)
        grads = jax.tree.map(lambda g: g / passes, total)
        # A metric is a number for each part, or a number for each example of a part.
        whole = lambda v: jnp.mean(v) if v.ndim == 1 else v.reshape(-1)
        return grads, jax.tree.map(whole, metrics)

    return mean


def ema_update(ema: Any, params: Any, step: Array, decay: float) -> Any:
    """Exponential moving average of the parameters, which soon forgets the initialisation.

    The rate after n updates is `min(decay, (1 + n) / (10 + n))`. With a constant rate of 0.9999 the
    random initialisation would still have the weight 0.37 after 10,000 steps; with this rate its
    weight vanishes after a few dozen steps.
    """
    n = step.astype(jnp.float32)
    rate = jnp.minimum(decay, (1.0 + n) / (10.0 + n))
    return jax.tree.map(lambda e, p: e + (1.0 - rate) * (p - e), ema, params)


def scan_steps(step: StepFn, n: int) -> StepFn:
    """n steps in one call; batch and metrics have a leading axis n. For n = 1, the step itself.

    A scan saves the dispatch of short steps on accelerators. On CPUs the gradient of a convolution
    is many times slower inside a loop than outside, so n should be 1 (`benchmarks/README.md`).
    """
    if n == 1:
        return step
    return lambda state, batches, *frozen: jax.lax.scan(
        lambda state, batch: step(state, batch, *frozen), state, batches, length=n
    )
