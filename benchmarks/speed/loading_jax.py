"""Our side of `benchmarks.speed.loading`: `Loader` over an image folder."""

import argparse
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.speed.worker import serve

BATCH, BATCHES = 32, 12


def rate(batches: Iterator[Any], workers: int) -> tuple[float, float]:
    """Return images a second and the cores that were busy.

    The batches that may have been read beforehand, two a worker, are taken before the clock starts.
    """
    for _ in range(2 * workers + 1):
        next(batches)
    begin, busy = time.perf_counter(), cpu_seconds()
    for _ in range(BATCHES):
        next(batches)
    seconds = time.perf_counter() - begin
    return BATCH * BATCHES / seconds, (cpu_seconds() - busy) / seconds


def cpu_seconds() -> float:
    """Return the CPU time of this process and of the processes that it has started (Linux)."""
    me, ticks = os.getpid(), os.sysconf("SC_CLK_TCK")
    found = time.process_time()
    for child in Path(f"/proc/{me}/task/{me}/children").read_text().split():
        fields = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()
        found += (int(fields[11]) + int(fields[12])) / ticks
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", required=True)
    parser.add_argument("--size", type=int, required=True)
    parser.add_argument("--workers", type=int, required=True)
    args = parser.parse_args()
    import data  # not at the top: the peer has the clock of this module, and no need of JAX

    own = {"image_size": args.size, "holdout": 0.0, "workers": args.workers}
    source = data.load("image_folder", "train", path=args.folder, **own)
    batches = data.Loader(source, BATCH, seed=0).iterate()
    pixels = int(source.fetch(np.array([0])).sum())
    facts = {"implementation": "ours, threads", "pixels": pixels}
    serve(facts, {"load": lambda: rate(batches, args.workers)})
    batches.close()


if __name__ == "__main__":
    main()
