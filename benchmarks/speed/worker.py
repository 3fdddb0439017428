"""A process that answers requests for measurements, line by line; imports no JAX or PyTorch."""

import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any


def serve(facts: dict[str, Any], answers: dict[str, Callable[[], float]]) -> None:
    """Print the facts, then answer a request for each line of the standard input.

    Every measurement is first made once without being reported, as a warm-up.
    """
    for answer in answers.values():
        answer()
    print("answer", json.dumps(facts), flush=True)
    for line in sys.stdin:
        print("answer", json.dumps(answers[line.strip()]()), flush=True)


def clock() -> float:
    """Return the time in seconds: wall time, or CPU time if the process has a single core.

    On a single core, CPU time leaves out other processes, except for their use of caches and
    memory.
    """
    return time.process_time() if len(os.sched_getaffinity(0)) == 1 else time.perf_counter()
