"""What a run that an error ends leaves behind: a checkpoint of where it stood."""

from collections.abc import Callable

import jax

from parallel.processes import JobError
from training.checkpoint import CheckpointError, Checkpoints
from training.finite import TrainingDiverged
from training.stop import Stopped


def rescue(error: Exception, save: Callable[[], None], checkpoints: Checkpoints) -> None:
    """Saves before `error` leaves the loop, and adds to it a note of what is saved.

    Not where the state cannot be trusted, or was saved already: a run that diverged, a checkpoint
    that could not be written, a signal. In a job a state is saved by all processes or by none, so
    only after an error that all of them know of, a `JobError`.

    Args:
        save: brings the state on its way to the disk, if its step is not there yet. Refuses one
            that is not finite.
    """
    if isinstance(error, Stopped):
        return
    if isinstance(error, CheckpointError | TrainingDiverged):
        checkpoints.wait()
        return
    if jax.process_count() > 1 and not isinstance(error, JobError):
        error.add_note(
            "The other processes of the job are in the middle of a step, so nothing could be saved "
            "by this one; mend that, start all of them again, and the run goes on from its last "
            "checkpoint."
        )
        return
    try:
        save()
        checkpoints.wait()
        step = checkpoints.latest()
    except Exception as second:
        said = " ".join(str(second).split()) or type(second).__name__
        error.add_note(f"What came after the last checkpoint could not be saved: {said}")
        return
    if step is not None:
        error.add_note(
            f"The checkpoint of step {step} is written; mend that, and the same command goes on "
            "from there."
        )
