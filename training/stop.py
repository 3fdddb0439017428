"""Signals that ask a run to save its state, and then to end or to continue."""

import os
import signal
from types import FrameType

import jax
from jax.experimental import multihost_utils

from parallel.processes import share

# 128 plus the number of the signal, as in shells. Schedulers restart a job with such a status, and
# take a status below 128 for an error of the program.
STATUS = {number: 128 + number for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
# Schedulers send this signal some time before they end a job (Slurm: `--signal=USR1@120`).
SAVE = signal.SIGUSR1


class Stopped(Exception):
    """A run was asked to end and has saved its state; `status` is the exit status."""

    def __init__(self, step: int, number: int):
        super().__init__(
            f"Stopped by {signal.Signals(number).name} at step {step}, whose checkpoint is "
            "written; the same command goes on from there."
        )
        self.status = STATUS[number]


class Stop:
    """A context in which signals ask a run to save.

    The first SIGTERM, Ctrl-C or SIGHUP (a terminal that closes) is noted, and a second one ends the
    program at once. SIGUSR1 asks for a checkpoint, after which the run continues.

    All processes of a job stop at the same step, whichever of them got a signal. In a job jax
    itself handles SIGTERM and makes the processes agree on a step that none of them has passed;
    Ctrl-C and SIGHUP are passed on to jax as SIGTERM. SIGUSR1 is ignored in a job, since a state is
    saved by all processes or by none.
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
            # Under `nohup` SIGHUP is ignored, and stays so: the terminal may close.
            if number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN:
                continue
            try:
                handler = self._note_save if number == SAVE else self._note
                self._before[number] = signal.signal(number, handler)
            except ValueError:
                # Only the main thread may set handlers. In another thread the caller must stop a
                # run by other means.
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
        """Whether a checkpoint was asked for since the last call."""
        asked, self._save = self._save, False
        return asked

    def asked(self) -> bool:
        """Whether the run should end now; every process of a job must call it equally often."""
        if jax.process_count() == 1:
            return self.number is not None
        # Calls are counted, not steps, since one call may follow several steps: the count that the
        # processes agree on is then always reached.
        self._asked += 1
        if not multihost_utils.reached_preemption_sync_point(self._asked):
            return False
        told = share(bytes([self.number or signal.SIGTERM]))
        others = (n for n in (signal.SIGINT, signal.SIGHUP) if bytes([n]) in told)
        self.number = next(others, signal.SIGTERM)
        return True
