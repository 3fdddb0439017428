"""Checkpoints named by step, through orbax, with its three quiet failures made loud.

orbax accepts a relative directory and then writes nothing; it answers False, not an error, when a
step exists already; and without an abstract target it restores optimizer states as lists.
"""

from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from training.state import TrainState


class CheckpointError(RuntimeError):
    """A checkpoint that is missing, damaged, or of another network. One sentence."""


class Checkpoints:
    """The checkpoints of a workdir, `<workdir>/checkpoints/<step>`."""

    def __init__(self, workdir: Path, keep: int = 0):
        self.folder = Path(workdir).absolute() / "checkpoints"
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep or None, create=True, enable_async_checkpointing=True
        )
        self._manager = ocp.CheckpointManager(self.folder, options=options)

    def steps(self) -> list[int]:
        """Steps of the whole checkpoints, rising; half-written ones do not count."""
        return sorted(self._manager.all_steps())

    def latest(self) -> int | None:
        return self._manager.latest_step()

    def save(self, state: TrainState) -> None:
        """Writes the state under its step, in the background.

        Raises:
            CheckpointError: where nothing was written.
        """
        step = int(state.step)
        if not self._manager.save(step, args=ocp.args.StandardSave(state)):
            raise CheckpointError(
                f"The checkpoint of step {step} was not written to {self.folder}: a checkpoint of "
                "this or a later step exists there; take another workdir."
            )

    def restore(self, abstract: TrainState, step: int | None = None) -> TrainState:
        """The state of `step`, the latest if not given.

        Args:
            abstract: shapes, dtypes and shardings, as from `jax.eval_shape` with shardings set.

        Raises:
            CheckpointError: where there is none, it is damaged, or it does not fit.
        """
        step = self.latest() if step is None else step
        if step is None:
            raise CheckpointError(
                f"There is no checkpoint in {self.folder}; run with --mode train first."
            )
        if step not in self.steps():
            raise CheckpointError(
                f"There is no checkpoint of step {step} in {self.folder}; "
                f"there are {', '.join(map(str, self.steps())) or 'none'}."
            )
        try:
            self._check_shapes(abstract, step)
            return self._manager.restore(step, args=ocp.args.StandardRestore(abstract))
        except CheckpointError:
            raise
        except Exception as error:
            raise CheckpointError(
                f"The checkpoint {self.folder / str(step)} cannot be read "
                f"({type(error).__name__}: {str(error).splitlines()[0][:200]}); delete that folder "
                "to go on from the one before."
            ) from error

    def _check_shapes(self, abstract: TrainState, step: int) -> None:
        """Names the first parameter that differs, before orbax starts to read."""
        saved = self._manager.item_metadata(step)
        tree = getattr(saved, "tree", saved)
        there, here = _shapes(tree["params"]), _shapes(abstract.params)
        for path in sorted(there.keys() | here.keys()):
            if there.get(path) != here.get(path):
                raise CheckpointError(
                    f"The checkpoint {self.folder / str(step)} is of another network: parameter "
                    f"{path} has shape {there.get(path, 'none')} there and "
                    f"{here.get(path, 'none')} in the config; use the config it was trained with."
                )

    def wait(self) -> None:
        """Returns once all is on disk; raises what went wrong in the background."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        self._manager.close()


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    leaves = jax.tree_util.tree_leaves_with_path(tree, is_leaf=lambda x: hasattr(x, "shape"))
    return {
        "/".join(str(getattr(k, "key", getattr(k, "name", k))) for k in path): tuple(leaf.shape)
        for path, leaf in leaves
    }
