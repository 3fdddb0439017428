"""A process of a job that ends without a word, killed or out of memory, is missed at once.

An operation of all processes fails when one of them is gone, and that is told. One that computes by
itself meanwhile would be aborted by jax with a dump of its threads, when a heartbeat of the other
has been missing for long enough, or at once where process 0 is gone.
"""

import os
import select
import threading
from collections.abc import Callable

from parallel.meeting import Lines, heard, tell

GOODBYE = "goodbye"


class Watch:
    """Listens to the lines of a meeting until each process has said goodbye.

    Args:
        lines: see `meet`.
        missed: called once, in another thread, with the sentence about a process that is gone.
    """

    def __init__(self, lines: Lines, missed: Callable[[str], None]):
        self._lines, self._missed = dict(lines), missed
        # A child that is forked is another process: the goodbye at its end is not that of this one.
        self._owner = os.getpid()
        for line in lines.values():
            line.settimeout(None)
        if lines:
            threading.Thread(target=self._listen, daemon=True).start()

    def part(self) -> None:
        """Says goodbye: what comes now is an end in order, or one of which this process speaks."""
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
                tell(waiting.values(), gone)  # of process 0: to those that have no line to it
                self._missed(gone)
                return
