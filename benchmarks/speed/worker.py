"""A process that measures what it is asked for, line by line; knows neither JAX nor PyTorch."""

import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any


def serve(facts: dict[str, Any], answers: dict[str, Callable[[], float]]) -> None:
    """Makes every measurement once, unheeded, tells the facts, and answers to the end of input."""
    for answer in answers.values():
        answer()
    print("answer", json.dumps(facts), flush=True)
    for line in sys.stdin:
        print("answer", json.dumps(answers[line.strip()]()), flush=True)


def clock() -> float:
    """Seconds: of the wall, or where the process has a single core, of the process alone, so that
    what else runs there counts only by the caches and the memory that it takes."""
    return time.process_time() if len(os.sched_getaffinity(0)) == 1 else time.perf_counter()
