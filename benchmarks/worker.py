"""A process that measures what it is asked for, line by line; knows neither JAX nor PyTorch."""

import json
import sys
from collections.abc import Callable
from typing import Any


def serve(facts: dict[str, Any], answers: dict[str, Callable[[], float]]) -> None:
    """Makes every measurement once, unheeded, tells the facts, and answers to the end of input."""
    for answer in answers.values():
        answer()
    print("answer", json.dumps(facts), flush=True)
    for line in sys.stdin:
        print("answer", json.dumps(answers[line.strip()]()), flush=True)
