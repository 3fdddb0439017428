"""`--profile N`: a trace of N steps, for TensorBoard's profiler or Perfetto."""

from pathlib import Path
from typing import Any

import jax

# Steps before the trace begins: the first ones wait for buffers and caches.
WARM = 5


class Profiler:
    """Traces `steps` steps of a run into `folder`; with 0 steps it does nothing."""

    def __init__(self, folder: Path, steps: int, first: int):
        self._folder = str(folder)
        self._begin, self._end = first + WARM, first + WARM + steps
        self._running = False

    def before(self, step: int, pending: Any) -> None:
        """To be called before each step, with what is still being computed."""
        if self._running and step >= self._end:
            self.stop(pending)
        elif self._begin <= step < self._end and not self._running:
            jax.block_until_ready(pending)
            jax.profiler.start_trace(self._folder)
            self._running = True

    def stop(self, pending: Any) -> None:
        """Writes the trace, if one is being taken."""
        if self._running:
            # The trace ends with the steps that were begun, not with their dispatch.
            jax.block_until_ready(pending)
            jax.profiler.stop_trace()
            self._running = False
            print(f"The trace is in {self._folder}; see it with TensorBoard or ui.perfetto.dev.")
