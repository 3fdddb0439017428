"""A checkpoint of the last step of a run that an error ends."""

from collections.abc import Callable

import jax

from parallel.processes import JobError
from training.checkpoint import CheckpointError, Checkpoints
from training.finite import TrainingDiverged
from training.stop import Stopped


def rescue(error: Exception, save: Callable[[], None], checkpoints: Checkpoints) -> None:
    """Save the state before `error` leaves the loop, and add a note on it to the error.

    Nothing is saved if the run diverged, if a checkpoint could not be written, or if a signal ended
    the run, which has saved its state already. In a job a state is saved by all processes or by
    none; it is therefore saved only after a `JobError`, which all processes raise.

    Args:
        save: starts writing the state, unless its step is on disk; refuses a state that is not
            finite.
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
