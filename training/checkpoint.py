"""Checkpoints named by step, through orbax, with its quiet failures made loud.

orbax accepts a relative directory and then writes nothing. It returns False, without an error, if
the step exists already. Without an abstract target it restores optimizer states as lists. It reads
data in which a bit has flipped; each field of a state is therefore saved with its checksum.
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
    """A checkpoint that is missing, damaged, or of another network."""


class Damaged(CheckpointError):
    """A checkpoint that exists but cannot be read, or whose bits differ from those written."""


# Characters with a meaning in glob patterns.
PATTERN = "[]*?"
# Words of errors that come from the reading process or its machine, not from the checkpoint.
OF_THE_READER = (
    "Permission denied",
    "PERMISSION_DENIED",
    "Input/output error",
    "Stale file handle",
    "timed out",
    "endpoint is not connected",
    "Cannot allocate memory",
    "RESOURCE_EXHAUSTED",
    "UNAVAILABLE",
    "Too many open files",
    "codec can't",
)
# Field of a checkpoint that holds its checksums, to the function that computes them; newest first.
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
        # The first step that is saved, with the shapes of its parameters, until it is read back.
        self._unread: tuple[int, Any] | None = None
        self._confirmed = False
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep or None, create=True, enable_async_checkpointing=True
        )
        # With an explicit handler the manager knows the shapes of a step before it restores it.
        self._manager = ocp.CheckpointManager(
            self.folder, options=options, item_handlers=ocp.PyTreeCheckpointHandler()
        )

    def steps(self) -> list[int]:
        """The steps of the complete checkpoints, in increasing order."""
        return sorted(self._manager.all_steps())

    def latest(self) -> int | None:
        return self._manager.latest_step()

    def save(self, state: TrainState) -> None:
        """Write the state under its step, in the background. The first checkpoint of a run is read
        back once it is on the disk.

        Raises:
            CheckpointError: nothing was written, or writing the previous checkpoint has failed.
        """
        if self._unread:
            self.wait()
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
        if not self._confirmed:
            self._unread, self._confirmed = (step, shapes_of(state.params)), True

    def restore(self, abstract: TrainState, step: int | None = None) -> TrainState:
        """Read the whole state of `step`, or of the latest checkpoint if `step` is None.

        Args:
            abstract: shapes, dtypes and shardings of every leaf.

        Raises:
            Damaged: the checkpoint cannot be read, or differs from what was written.
            CheckpointError: there is no such checkpoint, its shapes are not those of `abstract`, or
                an error of the reading machine prevents the read.
        """
        item = self._read(fields_of(abstract), abstract.params, "params", step)
        if not jax.dtypes.issubdtype(item["key"].dtype, jax.dtypes.prng_key):
            # After a failed read, orbax may return the key as plain numbers.
            item["key"] = jax.random.wrap_key_data(item["key"])
        return abstract.replace(**item)

    def set_aside(self, step: int) -> None:
        """Move a checkpoint into the folder `aside`."""
        place = self.aside / str(step)
        while place.exists():
            place = place.with_name(f"{place.name}_")
        place.parent.mkdir(exist_ok=True)
        (self.folder / str(step)).rename(place)

    def look_again(self) -> None:
        """Read the list of checkpoints again, as other processes may have changed it."""
        self._manager.reload()

    def restore_ema(self, abstract_params: Any, step: int | None = None) -> tuple[int, Any]:
        """Read only the averaged parameters of a checkpoint: `(step, parameters)`.

        Raises:
            CheckpointError, Damaged: as `restore`.
        """
        step = self._existing(step)
        item = {"ema_params": abstract_params}
        return step, self._read(item, abstract_params, "ema_params", step)["ema_params"]

    def _read(self, item: dict[str, Any], params: Any, name: str, step: int | None) -> Any:
        """Read the fields in `item` and check their checksums.

        Shapes are compared before: those of `params` with the field `name` of the checkpoint.
        """
        step = self._existing(step)
        try:
            saved = self._saved(step)
            self._check_shapes(params, saved[name], step)
            number = lambda dtype: jax.ShapeDtypeStruct((), dtype, sharding=sharding_of(params))
            item = {"step": number("int32"), **item}
            # Checkpoints of earlier versions have another kind of checksum, or none.
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
            if of_the_reader(error):
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
        """Return `step`, or the latest step if it is None, after a check that it exists."""
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
        """The shapes of all arrays in a checkpoint, by field."""
        saved = self._manager.item_metadata(step)
        return getattr(saved, "tree", saved)

    def _check_shapes(self, params: Any, saved: Any, step: int) -> None:
        """Refuse a checkpoint of another network before orbax reads it.

        Raises:
            CheckpointError: with the first parameter whose shape or dtype differs.
        """
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
        """The error for a failure to write; the background work is stopped first."""
        end_waiting()
        first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
        whole = [step for step in self.steps() if (self.folder / str(step)).is_dir()]
        return CheckpointError(
            f"A checkpoint could not be written to {self.folder} ({first_line[:200]}); "
            + (f"that of step {whole[-1]} is whole. " if whole else "there is none before it. ")
            + "Make room there, or mend the folder, and the same command goes on."
        )

    def wait(self) -> None:
        """Wait until all checkpoints are on disk.

        Raises:
            CheckpointError: a write in the background failed, or what was written cannot be read
                back.
        """
        try:
            self._manager.wait_until_finished()
        except Exception as error:
            raise self._unwritten(error) from error
        if self._unread:
            (step, params), self._unread = self._unread, None
            self._read_back(step, params)

    def _read_back(self, step: int, params: Any) -> None:
        """Read the shapes and the step of a checkpoint that was just written. A library may report
        a save that cannot be found again, so this is checked once a run."""
        try:
            self.look_again()
            self._read({}, params, "params", step)
        except CheckpointError as error:
            raise CheckpointError(
                f"The checkpoint of step {step} was written to {self.folder} and cannot be read "
                f"back there; take another --workdir. {error}"
            ) from error

    def close(self) -> None:
        self._manager.close()


def end_waiting() -> None:
    """End the threads in which orbax waits for the folder of a checkpoint that could not be made.

    They would wait for five minutes, and the process would hold the lock of its workdir so long.

    In a job the processes wait for each other, and `main.leave` ends them without their threads.
    """
    if jax.process_count() > 1:
        return
    for thread in threading.enumerate():
        if isinstance(thread, future._SignalingThread):
            thread.cancel()
            # The thread wakes up as if the folder were there, sees that it is cancelled, and ends.
            future.set_signals(thread._receive_signals, operation_id=thread._operation_id)


def fields_of(state: TrainState) -> dict[str, Any]:
    """Return a state as a dict, with the names that its fields have on disk.

    A run of one network has no field `others`, as in checkpoints of earlier versions.
    """
    fields = {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}
    return {name: value for name, value in fields.items() if name != "others" or value}


def of_the_reader(error: Exception) -> bool:
    """Whether an error comes from the reading machine, not from the checkpoint: the system could
    not read a file, or memory ran out. A missing file is an error of the checkpoint."""
    if isinstance(error, MemoryError):
        return True
    missing = (FileNotFoundError, NotADirectoryError, IsADirectoryError)
    if isinstance(error, OSError) and error.errno and not isinstance(error, missing):
        return True
    return any(word in str(error) for word in OF_THE_READER)


def sharding_of(params: Any) -> Any:
    """A replicated sharding for a scalar, on the devices of the parameters."""
    where = jax.tree.leaves(params)[0].sharding
    if not isinstance(where, jax.sharding.NamedSharding):
        return where
    return jax.sharding.NamedSharding(where.mesh, jax.sharding.PartitionSpec())


def shapes_of(params: Any) -> Any:
    """Shapes, dtypes and shardings, without the numbers, which a later step may delete."""
    shape = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=getattr(x, "sharding", None))
    return jax.tree.map(shape, params)


def _shapes(tree: Any) -> dict[str, str]:
    """The shape of each leaf by its path, with its dtype if it is not float32."""
    of = lambda dtype: "" if str(dtype) == "float32" else f" of {dtype}"
    leaves = jax.tree_util.tree_leaves_with_path(tree, is_leaf=lambda x: hasattr(x, "shape"))
    named = lambda path: "/".join(str(getattr(k, "key", getattr(k, "name", k))) for k in path)
    return {named(path): f"shape {tuple(leaf.shape)}{of(leaf.dtype)}" for path, leaf in leaves}
