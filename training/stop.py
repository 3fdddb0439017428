"""Signals that ask a run to save: and then to end, or to go on."""

import os
import signal
from types import FrameType

import jax
from jax.experimental import multihost_utils

from parallel.processes import share

# 128 and the number of the signal, as shells count. Schedulers start a job that ended so again,
# where they take a status below 128 for an error of the program.
STATUS = {number: 128 + number for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
# Schedulers send it some time before they end a job (Slurm: `--signal=USR1@120`).
SAVE = signal.SIGUSR1


class Stopped(Exception):
    """A run that was asked to end, and has saved where it stood. `status` is what to exit with."""

    def __init__(self, step: int, number: int):
        super().__init__(
            f"Stopped by {signal.Signals(number).name} at step {step}, whose checkpoint is "
            "written; the same command goes on from there."
        )
        self.status = STATUS[number]


class Stop:
    """While it is entered, the first SIGTERM, Ctrl-C or SIGHUP (a terminal that closes) is noted,
    and a second one ends the program. SIGUSR1 asks for a checkpoint, after which the run goes on.

    The processes of a job stop at the same step, whichever of them was told by whichever signal.
    There jax itself listens for SIGTERM, and lets the processes agree on a step that none of them
    has passed; Ctrl-C and SIGHUP are passed on to it as one. A SIGUSR1 is passed over there, since
    a job saves with all its processes or not at all.
    """

    def __init__(self):
        self.number: int | None = None
        self._save = False
        self._asked = 0
        self._before: dict[int, object] = {}

    def __enter__(self) -> "Stop":
        for number in (*STATUS, SAVE):
            if number == signal.SIGTERM and jax.process_count() > 1:
                continue
            # Under `nohup` the terminal may close.
            if number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN:
                continue
            try:
                handler = self._note_save if number == SAVE else self._note
                self._before[number] = signal.signal(number, handler)
            except ValueError:
                # Only the main thread may set handlers; its caller stops a run in another thread.
                break
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.number is not None:
            os._exit(STATUS[number])
        self.number = number
        if jax.process_count() > 1:
            os.kill(os.getpid(), signal.SIGTERM)

    def _note_save(self, number: int, frame: FrameType | None) -> None:
        self._save = jax.process_count() == 1

    def save_asked(self) -> bool:
        """Whether a checkpoint was asked for since this was asked last."""
        asked, self._save = self._save, False
        return asked

    def asked(self) -> bool:
        """Whether the run is to end now; to be asked as often by every process of a job."""
        if jax.process_count() == 1:
            return self.number is not None
        # Questions are counted and not steps, which may go by in blocks: the one agreed on is met.
        self._asked += 1
        if not multihost_utils.reached_preemption_sync_point(self._asked):
            return False
        told = share(bytes([self.number or signal.SIGTERM]))
        others = (n for n in (signal.SIGINT, signal.SIGHUP) if bytes([n]) in told)
        self.number = next(others, signal.SIGTERM)
        return True
