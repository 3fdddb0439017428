"""Signals that ask a run to end: it saves, says so, and goes."""

import os
import signal
from types import FrameType

import jax
from jax.experimental import multihost_utils

# 128 and the number of the signal, as shells count. Schedulers start a job that ended so again,
# where they take a status below 128 for an error of the program.
STATUS = {signal.SIGTERM: 128 + signal.SIGTERM, signal.SIGINT: 128 + signal.SIGINT}


class Stopped(Exception):
    """A run that was asked to end, and has saved where it stood. `status` is what to exit with."""

    def __init__(self, step: int, number: int):
        super().__init__(
            f"Stopped by {signal.Signals(number).name} at step {step}, whose checkpoint is "
            "written; the same command goes on from there."
        )
        self.status = STATUS[number]


class Stop:
    """While it is entered, the first SIGTERM or Ctrl-C is noted and a second one ends the program.

    The processes of a job stop at the same step, whichever of them was told; there jax itself
    listens for SIGTERM.
    """

    def __init__(self):
        self.number: int | None = None
        self._before: dict[int, object] = {}

    def __enter__(self) -> "Stop":
        for number in STATUS:
            # Only the main thread may; a run in another one is stopped by whoever started it.
            if number == signal.SIGTERM and jax.process_count() > 1:
                continue
            try:
                self._before[number] = signal.signal(number, self._note)
            except ValueError:
                break
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.number is not None:
            os._exit(STATUS[number])
        self.number = number

    def asked(self, step: int) -> bool:
        """Whether the run is to end after this step; to be asked after every one."""
        if jax.process_count() > 1 and multihost_utils.reached_preemption_sync_point(step):
            self.number = signal.SIGTERM
        return self.number is not None
