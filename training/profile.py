"""`--profile N`: a trace of N steps, for TensorBoard's profiler or Perfetto."""

from pathlib import Path
from typing import Any

import jax

# Steps before the trace begins, since the first steps wait for buffers and caches.
WARM = 5


class Profiler:
    """A trace of `steps` steps of a run in `folder`, begun WARM steps after step `first`.

    With 0 steps there is no trace.
    """

    def __init__(self, folder: Path, steps: int, first: int):
        self._folder = str(folder)
        self._begin, self._end = first + WARM, first + WARM + steps
        self._running = False

    def before(self, step: int, pending: Any) -> None:
        """Start or stop the trace; call it before each step, with the metrics still computed."""
        if self._running and step >= self._end:
            self.stop(pending)
        elif self._begin <= step < self._end and not self._running:
            jax.block_until_ready(pending)
            jax.profiler.start_trace(self._folder)
            self._running = True

    def stop(self, pending: Any) -> None:
        """Write the trace, if one is running."""
        if self._running:
            # Waits until the dispatched steps are computed, so that the trace contains them.
            jax.block_until_ready(pending)
            jax.profiler.stop_trace()
            self._running = False
            print(f"The trace is in {self._folder}; see it with TensorBoard or ui.perfetto.dev.")
