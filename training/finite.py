"""Steps whose loss or gradient is not finite: they are skipped and counted; many end the run."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from training.state import TrainState


class TrainingDiverged(RuntimeError):
    """Too many steps in a row had a loss or gradient that is not finite, or a parameter is not
    finite. The message has the step and, for a loss or gradient, the times of its batch."""


class Watch:
    """Reader of the metrics of steps, which counts the skipped steps.

    Args:
        most: the largest number of skipped steps in a row; one more ends the run.
    """

    def __init__(self, most: int):
        self._most, self._in_a_row = most, 0

    def read(self, pending: list[tuple[int, Any]]) -> dict[str, float]:
        """Fetch the metrics of several steps from the device and average them.

        Args:
            pending: (number of the first step, metrics) of each call of the step.

        Returns:
            `training_loss` and `grad_norm`, means over the finite steps, if there are any, with the
            losses and gradient norms of other players by their names; `skipped`, the number of the
            other steps, if there are any.

        Raises:
            TrainingDiverged: more than `most` steps in a row are not finite.
        """
        first = pending[0][0]
        fetched = jax.device_get([metrics for _, metrics in pending])
        join = lambda name: np.concatenate([np.atleast_1d(metrics[name]) for metrics in fetched])
        loss, norm = join("loss"), join("grad_norm")
        # Losses and gradient norms of the main network and of other players.
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
            # The mean of another player is over the steps at which the player moved.
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
    """Check the parameters after `done` steps, before they are saved.

    A finite gradient can make a parameter that is not finite, which otherwise only the next loss
    would show.

    Raises:
        TrainingDiverged: a parameter, or its average, is not finite.
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
