"""Notices at once when a process of a job ends unexpectedly, killed or out of memory.

A collective operation fails if a process is gone, and this error is reported. A process that
computes by itself at that time would instead be aborted by jax, with a dump of its threads: after
a missing heartbeat, or at once if process 0 is gone.
"""

import os
import select
import threading
from collections.abc import Callable

from parallel.meeting import Lines, heard, tell

GOODBYE = "goodbye"


class Watch:
    """Listens to the sockets of a meeting until each process has said goodbye.

    Args:
        lines: the open sockets that `meet` returns.
        missed: called once, in another thread, with a sentence about the process that is gone.
    """

    def __init__(self, lines: Lines, missed: Callable[[str], None]):
        self._lines, self._missed = dict(lines), missed
        # A forked child also runs the exit handlers; it must not say goodbye for this process.
        self._owner = os.getpid()
        for line in lines.values():
            line.settimeout(None)
        if lines:
            threading.Thread(target=self._listen, daemon=True).start()

    def part(self) -> None:
        """Say goodbye: this process ends in order, or reports the reason itself."""
        if os.getpid() == self._owner:
            tell(self._lines.values(), GOODBYE)

    def _listen(self) -> None:
        waiting = dict(self._lines)
        while waiting:
            ready = select.select(waiting.values(), [], [])[0]
            for index in [i for i, line in waiting.items() if line in ready]:
                said = heard(waiting.pop(index))
                if said == GOODBYE:
                    continue
                gone = said or (
                    f"Process {index} of the job ended without a word, killed or out of memory; "
                    "start all of them again, and the run goes on from its last checkpoint."
                )
                # On process 0: the other processes have no socket to the one that is gone.
                tell(waiting.values(), gone)
                self._missed(gone)
                return
