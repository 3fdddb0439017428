"""Steps whose loss or gradient is not finite: skipped, counted, and too many of them the end."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from training.state import TrainState


class TrainingDiverged(RuntimeError):
    """Losses or gradients that are not finite. Says the step and the times of its batch."""


class Watch:
    """Reads the metrics of steps and keeps count of those that were skipped.

    Args:
        most: so many in a row are passed over; one more ends the run.
    """

    def __init__(self, most: int):
        self._most, self._in_a_row = most, 0

    def read(self, pending: list[tuple[int, Any]]) -> dict[str, float]:
        """Fetches gathered metrics, each with the number of its step, and averages them.

        Returns `training_loss` and `grad_norm` over the finite steps, where there are any, and
        `skipped`, the number of the others, where there are any.

        Raises:
            TrainingDiverged: naming the last step of a row that is too long.
        """
        first = pending[0][0]
        fetched = jax.device_get([metrics for _, metrics in pending])
        join = lambda name: np.concatenate([np.atleast_1d(metrics[name]) for metrics in fetched])
        loss, norm = join("loss"), join("grad_norm")
        # Of the main network, and of others that are trained beside it.
        watched = [name for name in fetched[0] if name.endswith(("loss", "grad_norm"))]
        values = {name: join(name) for name in watched}
        good = np.all([np.isfinite(value) for value in values.values()], axis=0)
        for i in range(len(good)):
            self._in_a_row = 0 if good[i] else self._in_a_row + 1
            if self._in_a_row > self._most:
                times = np.concatenate([m["t"].reshape(-1, m["t"].shape[-1]) for m in fetched])[i]
                raise TrainingDiverged(evidence(first + i, self._in_a_row, loss[i], norm[i], times))
        row = {} if good.all() else {"skipped": int(np.sum(~good))}
        if good.any():
            # Of a player that does not move at every step, over the steps at which it did.
            turns = lambda name: join(f"{name.rsplit('_', 1)[0].removesuffix('_grad')}_turns")
            beside = [name for name in values if name not in ("loss", "grad_norm")]
            weights = {name: turns(name)[good] for name in beside}
            row["training_loss"] = float(loss[good].mean())
            row["grad_norm"] = float(norm[good].mean())
            for name, weight in weights.items():
                if weight.any():
                    row[name] = float(np.average(values[name][good], weights=weight))
        return row


def evidence(step: int, in_a_row: int, loss: float, norm: float, times: np.ndarray) -> str:
    shown = ", ".join(f"{t:.3g}" for t in np.sort(times)[:8])
    before = f", the {ordinal(in_a_row)} such step in a row" if in_a_row > 1 else ""
    return (
        f"Training diverged at step {step}: loss {loss}, gradient norm {norm}{before}; the batch "
        f"had {times.size} times in [{times.min():.3g}, {times.max():.3g}], the smallest {shown}. "
        "The last checkpoint is good; lower optim.lr, set optim.grad_clip, or raise sde.t0."
    )


def ordinal(n: int) -> str:
    last = {1: "st", 2: "nd", 3: "rd"}.get(n % 10, "th") if n % 100 not in (11, 12, 13) else "th"
    return f"{n}{last}"


def check_state(state: TrainState, done: int) -> None:
    """A finite gradient can still make a parameter that is not, and only the next loss would tell.

    Raises:
        TrainingDiverged: where a parameter, or its average, is not finite.
    """
    beside = [(each.params, each.ema_params) for each in state.others.values()]
    if not all_finite((state.params, state.ema_params, beside)):
        raise TrainingDiverged(
            f"Training diverged at step {done - 1}: its loss is finite, but a parameter after its "
            "update is not. The last checkpoint is good; lower optim.lr, or raise optim.eps."
        )


@jax.jit
def all_finite(tree: Any) -> jax.Array:
    return jnp.all(jnp.asarray([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]))
