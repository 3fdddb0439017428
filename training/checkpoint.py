"""Checkpoints named by step, through orbax, with its quiet failures made loud.

orbax accepts a relative directory and then writes nothing; it answers False, not an error, when a
step exists already; without an abstract target it restores optimizer states as lists; and it reads
data of which a bit has flipped. Each field of a state is therefore saved with its checksum.
"""

import dataclasses
import threading
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint._src.futures import future

from training.checksum import checksum, plain_sum
from training.state import TrainState


class CheckpointError(RuntimeError):
    """A checkpoint that is missing, damaged, or of another network. One sentence."""


class Damaged(CheckpointError):
    """One that is there and cannot be read, or that holds other bits than were written."""


# Characters that have a meaning in patterns of file names.
PATTERN = "[]*?"
# Words of errors that are of the reader or its machine, and say nothing of the checkpoint.
OF_THE_READER = (
    "Permission denied",
    "PERMISSION_DENIED",
    "Input/output error",
    "Stale file handle",
    "Cannot allocate memory",
    "RESOURCE_EXHAUSTED",
    "UNAVAILABLE",
    "Too many open files",
    "codec can't",
)
# Names of the checksums in a checkpoint, and what they are; the newest kind first.
MIXED = "mixed"
CHECKSUMS = {MIXED: checksum, "checksum": plain_sum}


class Checkpoints:
    """The checkpoints of a workdir, `<workdir>/checkpoints/<step>`."""

    def __init__(self, workdir: Path, keep: int = 0):
        self.folder = Path(workdir).absolute() / "checkpoints"
        if found := set(str(self.folder)) & set(PATTERN):
            raise CheckpointError(
                f"The workdir {workdir} has {' '.join(sorted(found))} in its path, which the "
                "library of checkpoints takes for a pattern of names: it would write and find "
                "nothing again; take a path without these characters."
            )
        self.aside = self.folder.with_name("damaged")
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
            CheckpointError: where nothing was written, or the one before could not be.
        """
        step, item = int(state.step), fields_of(state)
        item[MIXED] = {name: checksum(value) for name, value in item.items()}
        try:
            written = self._manager.save(step, args=ocp.args.PyTreeSave(item))
        except Exception as error:
            raise self._unwritten(error) from error
        if not written:
            raise CheckpointError(
                f"The checkpoint of step {step} was not written to {self.folder}: a checkpoint of "
                "this or a later step exists there; take another workdir."
            )

    def restore(self, abstract: TrainState, step: int | None = None) -> TrainState:
        """The whole state of `step`, the latest if not given.

        Args:
            abstract: shapes, dtypes and shardings of every leaf.

        Raises:
            Damaged: where it cannot be read, or is not what was written.
            CheckpointError: where there is none, or it does not fit.
        """
        item = self._read(fields_of(abstract), abstract.params, "params", step)
        if not jax.dtypes.issubdtype(item["key"].dtype, jax.dtypes.prng_key):
            # After a read that failed orbax may forget that these numbers are a key.
            item["key"] = jax.random.wrap_key_data(item["key"])
        return abstract.replace(**item)

    def set_aside(self, step: int) -> None:
        """Moves a checkpoint out of the way, into `aside`."""
        place = self.aside / str(step)
        while place.exists():
            place = place.with_name(f"{place.name}_")
        place.parent.mkdir(exist_ok=True)
        (self.folder / str(step)).rename(place)

    def look_again(self) -> None:
        """Sees what others have written, moved or deleted."""
        self._manager.reload()

    def restore_ema(self, abstract_params: Any, step: int | None = None) -> tuple[int, Any]:
        """`(step, averaged parameters)` and nothing else of a checkpoint; errors as `restore`."""
        step = self._existing(step)
        item = {"ema_params": abstract_params}
        return step, self._read(item, abstract_params, "ema_params", step)["ema_params"]

    def _read(self, item: dict[str, Any], params: Any, name: str, step: int | None) -> Any:
        """The fields in `item`, checked; `params` are compared first, with those under `name`."""
        step = self._existing(step)
        try:
            saved = self._saved(step)
            self._check_shapes(params, saved[name], step)
            number = lambda dtype: jax.ShapeDtypeStruct((), dtype, sharding=sharding_of(params))
            item = {"step": number("int32"), **item}
            # Those of earlier versions have another kind of checksums, or none.
            kind = next((kind for kind in CHECKSUMS if kind in saved), None)
            if kind is not None:
                item = {**item, kind: dict.fromkeys(item, number("uint32"))}
            arguments = ocp.args.PyTreeRestore(
                item=item,
                restore_args=ocp.checkpoint_utils.construct_restore_args(item),
                partial_restore=True,
            )
            found = self._manager.restore(step, args=arguments)
            said = found.pop(kind) if kind is not None else {}
            for field, value in said.items():
                if int(CHECKSUMS[kind](found[field])) != int(value):
                    raise Damaged(
                        f"The checkpoint {self.folder / str(step)} is not what was written: "
                        f"{field} has another checksum; delete that folder to go on from the one "
                        "before."
                    )
            if int(found["step"]) != step:
                raise Damaged(
                    f"The checkpoint {self.folder / str(step)} is that of step "
                    f"{int(found['step'])} under another name; delete that folder, or give it its "
                    "name back."
                )
            return found
        except CheckpointError:
            raise
        except Exception as error:
            first_line = (str(error).strip() or "no message").splitlines()[0]
            if isinstance(error, MemoryError) or any(word in str(error) for word in OF_THE_READER):
                raise CheckpointError(
                    f"The checkpoint {self.folder / str(step)} could not be read here "
                    f"({type(error).__name__}: {first_line[:200]}); that says nothing of the "
                    "checkpoint, which is left where it is: mend that, and try again."
                ) from error
            raise Damaged(
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

    def _saved(self, step: int) -> dict[str, Any]:
        """Shapes of all that is in a checkpoint, by field."""
        saved = self._manager.item_metadata(step)
        return getattr(saved, "tree", saved)

    def _check_shapes(self, params: Any, saved: Any, step: int) -> None:
        """Names the first parameter that differs, before orbax starts to read."""
        there, here = _shapes(saved), _shapes(params)
        for path in sorted(there.keys() | here.keys()):
            if there.get(path) != here.get(path):
                raise CheckpointError(
                    f"The checkpoint {self.folder / str(step)} is of another network: parameter "
                    f"{path} has {there.get(path, 'shape none')} there and "
                    f"{here.get(path, 'none').removeprefix('shape ')} in the config; use the "
                    "config it was trained with."
                )

    def _unwritten(self, error: Exception) -> CheckpointError:
        """What a failure to write means; nothing goes on in the background then."""
        end_waiting()
        first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
        whole = [step for step in self.steps() if (self.folder / str(step)).is_dir()]
        return CheckpointError(
            f"A checkpoint could not be written to {self.folder} ({first_line[:200]}); "
            + (f"that of step {whole[-1]} is whole. " if whole else "there is none before it. ")
            + "Make room there, or mend the folder, and the same command goes on."
        )

    def wait(self) -> None:
        """Returns once all is on disk.

        Raises:
            CheckpointError: where something went wrong in the background.
        """
        try:
            self._manager.wait_until_finished()
        except Exception as error:
            raise self._unwritten(error) from error

    def close(self) -> None:
        self._manager.close()


def end_waiting() -> None:
    """Ends the threads in which orbax waits for the folder of a checkpoint, though it could not be
    made: for five minutes, in which the process would stay, and hold the lock of its workdir.

    In a job the processes wait for each other, and `main.leave` ends them without their threads.
    """
    if jax.process_count() > 1:
        return
    for thread in threading.enumerate():
        if isinstance(thread, future._SignalingThread):
            thread.cancel()
            # What it waits for has come, as it were; it sees that it is cancelled, and ends.
            future.set_signals(thread._receive_signals, operation_id=thread._operation_id)


def fields_of(state: TrainState) -> dict[str, Any]:
    """A state as a dict, under the names that its fields have on disk. A run of one network has no
    `others` there, as in versions before."""
    fields = {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}
    return {name: value for name, value in fields.items() if name != "others" or value}


def sharding_of(params: Any) -> Any:
    """One for a number, on the devices of the parameters."""
    where = jax.tree.leaves(params)[0].sharding
    return jax.sharding.NamedSharding(where.mesh, jax.sharding.PartitionSpec())


def _shapes(tree: Any) -> dict[str, str]:
    """The shape of each leaf by its path, and its dtype where that is not float32."""
    of = lambda dtype: "" if str(dtype) == "float32" else f" of {dtype}"
    leaves = jax.tree_util.tree_leaves_with_path(tree, is_leaf=lambda x: hasattr(x, "shape"))
    named = lambda path: "/".join(str(getattr(k, "key", getattr(k, "name", k))) for k in path)
    return {named(path): f"shape {tuple(leaf.shape)}{of(leaf.dtype)}" for path, leaf in leaves}
