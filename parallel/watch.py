"""Notices at once when a process of a job ends without a message, killed or out of memory.

An operation of all processes fails when one of them is gone, and that error is reported. A process
that computes by itself would be aborted by jax with a dump of its threads: when a heartbeat has
been missing for long enough, or at once if process 0 is gone.
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
        lines: see `meet`.
        missed: called once, in another thread, with a sentence about a process that is gone.
    """

    def __init__(self, lines: Lines, missed: Callable[[str], None]):
        self._lines, self._missed = dict(lines), missed
        # A forked child is another process, and must not say goodbye for this one at its end.
        self._owner = os.getpid()
        for line in lines.values():
            line.settimeout(None)
        if lines:
            threading.Thread(target=self._listen, daemon=True).start()

    def part(self) -> None:
        """Say goodbye: the end that follows is regular, or this process reports it itself."""
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
                tell(waiting.values(), gone)  # process 0 tells the others, which are not connected
                self._missed(gone)
                return
