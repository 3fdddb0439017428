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
        # With its handler named, the manager can tell the shapes of a step it has not restored yet.
        self._manager = ocp.CheckpointManager(
            self.folder, options=options, item_handlers=ocp.PyTreeCheckpointHandler()
        )

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
        if not self._manager.save(step, args=ocp.args.PyTreeSave(state)):
            raise CheckpointError(
                f"The checkpoint of step {step} was not written to {self.folder}: a checkpoint of "
                "this or a later step exists there; take another workdir."
            )

    def restore(self, abstract: TrainState, step: int | None = None) -> TrainState:
        """The whole state of `step`, the latest if not given.

        Args:
            abstract: shapes, dtypes and shardings of every leaf.

        Raises:
            CheckpointError: where there is none, it is damaged, or it does not fit.
        """
        return self._read(abstract, abstract.params, "params", step)

    def restore_ema(self, abstract_params: Any, step: int | None = None) -> tuple[int, Any]:
        """`(step, averaged parameters)` and nothing else of a checkpoint; errors as `restore`."""
        step = self._existing(step)
        item = {"ema_params": abstract_params}
        return step, self._read(item, abstract_params, "ema_params", step)["ema_params"]

    def _read(self, item: Any, params: Any, name: str, step: int | None) -> Any:
        step = self._existing(step)
        try:
            self._check_shapes(params, name, step)
            arguments = ocp.args.PyTreeRestore(
                item=item,
                restore_args=ocp.checkpoint_utils.construct_restore_args(item),
                partial_restore=isinstance(item, dict),
            )
            return self._manager.restore(step, args=arguments)
        except CheckpointError:
            raise
        except Exception as error:
            first_line = (str(error).strip() or "no message").splitlines()[0]
            raise CheckpointError(
                f"The checkpoint {self.folder / str(step)} cannot be read "
                f"({type(error).__name__}: {first_line[:200]}); delete that folder to go on from "
                "the one before."
            ) from error

    def _existing(self, step: int | None) -> int:
        """The step asked for, or the latest, if it is there."""
        steps = self.steps()
        if not steps:
            raise CheckpointError(
                f"There is no checkpoint in {self.folder}; run with --mode train first."
            )
        if step is not None and step not in steps:
            raise CheckpointError(
                f"There is no checkpoint of step {step} in {self.folder}; there are those of steps "
                f"{', '.join(map(str, steps))}."
            )
        return steps[-1] if step is None else step

    def _check_shapes(self, params: Any, name: str, step: int) -> None:
        """Names the first parameter that differs, before orbax starts to read."""
        saved = self._manager.item_metadata(step)
        there, here = _shapes(getattr(saved, "tree", saved)[name]), _shapes(params)
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
