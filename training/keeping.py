"""Which checkpoints are kept, and when one is written by wall time."""

import dataclasses
import time
from collections.abc import Sequence
from typing import Any

import jax
from orbax.checkpoint import checkpoint_managers

from parallel.processes import agreed


@dataclasses.dataclass
class Keeping(checkpoint_managers.PreservationPolicy):
    """The newest snapshots, some for good, and the newest checkpoint of all.

    Attributes:
        newest: number of newest snapshots; 0 keeps all.
        every: the snapshot at each multiple of this step is kept for good; 0 for none.
        block: steps between two states, of which a snapshot is the first at or after its multiple.
        passing: steps of checkpoints by wall time, which are no snapshots: each is kept until the
            next checkpoint is on the disk.
    """

    newest: int = 0
    every: int = 0
    block: int = 1
    passing: set[int] = dataclasses.field(default_factory=set)

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        """Whether each of the checkpoints, in the order of their steps, is kept."""
        steps = [checkpoint.step for checkpoint in checkpoints]
        snapshots = [step for step in steps if step not in self.passing]
        kept = {*steps[-1:], *snapshots[-self.newest :], *filter(self._for_good, snapshots)}
        return [step in kept for step in steps]

    def _for_good(self, step: int) -> bool:
        every = self.every
        return every > 0 and step // every > (step - self.block) // every


class WallTime:
    """Whether a checkpoint is due by wall time, because the last one is so many minutes old.

    In a job of several processes the clock of the lead decides for all. They agree where they meet
    in any case, at the rows of metrics.
    """

    def __init__(self, minutes: float):
        """`minutes`: 0 for no such checkpoint."""
        self._seconds, self._last = 60.0 * minutes, time.monotonic()

    def restart(self) -> None:
        """A checkpoint, of whatever kind, has been saved."""
        self._last = time.monotonic()

    def due(self, meeting: bool) -> bool:
        """Whether a checkpoint is due after this step; every process calls it equally often.

        Args:
            meeting: whether the processes meet after this step.
        """
        if not self._seconds:
            return False
        passed = time.monotonic() - self._last >= self._seconds
        if jax.process_count() == 1:
            return passed
        return meeting and agreed(passed)
