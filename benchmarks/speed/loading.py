"""How many images a second come out of a folder, compared with PyTorch's DataLoader?

    python -m benchmarks.speed.loading [--sizes 64 256] [--workers 1 2 4] [--rounds 5]
                                       [--shape 375 500] [--torch PYTHON]

The folder has JPEGs of one height and width, made for the run. Of each the middle is resized to a
square by Pillow's Lanczos filter, on both sides. Ours decodes with threads (`data.workers`), the
DataLoader with as many processes; both have Pillow, and one random order without end.

- Each side is a process of its own, and the two load in turn. A measurement first takes batches
  that may have been read while the other side was measured, and does not count them. The result is
  the median over rounds of the ratio in a round.
- The first row of a size has the CPU time of an image in one thread of ours, and the part of it
  that holds Python's lock, of which threads share none: all but Pillow's decoding and resizing.
- `cores` is the CPU time of a side, children included, over the wall time. Where it does not grow
  with the number of workers, the machine had no more cores to give.

PYTHON is an interpreter with torch and Pillow; without one, our code runs alone.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.speed.train_step import Worker
from data.image_file import read_header, read_picture
from data.resize import fit

SQUARE = 16  # pixels of a square of one colour, before the noise


def make_folder(folder: Path, count: int, height: int, width: int) -> None:
    """Write JPEGs of blurred squares and noise; those of 375 x 500 have about 68 kB."""
    rng = np.random.default_rng(0)
    coarse = height // SQUARE + 1, width // SQUARE + 1, 3
    for i in range(count):
        squares = Image.fromarray(rng.integers(0, 256, coarse).astype(np.uint8))
        image = np.asarray(squares.resize((width, height), Image.Resampling.BICUBIC)).astype(int)
        image = np.clip(image + rng.integers(-12, 13, image.shape), 0, 255).astype(np.uint8)
        Image.fromarray(image).save(folder / f"{i:04}.jpg", quality=90)


def has_torch(python: str) -> bool:
    return subprocess.run([python, "-c", "import torch, PIL"], capture_output=True).returncode == 0


def one_thread(file: Path, size: int) -> tuple[float, float]:
    """Return the CPU time of an image in ms: the whole, and the part that holds Python's lock."""
    picture = read_picture(file, 3)
    square = Image.fromarray(fit(picture, None, (min(picture.size),) * 2))
    whole = milliseconds(lambda: fit(read_picture(file, 3), (size, size)))
    opened = milliseconds(lambda: read_header(file))
    decoded = milliseconds(lambda: read_picture(file, 3)) - opened
    resized = milliseconds(lambda: square.resize((size, size), Image.Resampling.LANCZOS))
    return whole, whole - decoded - resized


def milliseconds(call: Callable[[], Any]) -> float:
    begin = time.thread_time()
    call()
    return 1e3 * (time.thread_time() - begin)


def compare(folder: Path, size: int, workers: int, rounds: int, torch: str | None) -> None:
    """Print a row for each side: images a second, the ratio to ours, and the cores it took."""
    options = {"folder": folder, "size": size, "workers": workers}
    sides = [Worker(sys.executable, "loading_jax", **options)]
    if torch:
        sides.append(Worker(torch, "loading_torch", **options))
    rates, cores = np.zeros((rounds, len(sides))), np.zeros((rounds, len(sides)))
    for i in range(rounds):
        order = range(len(sides))
        for k in order if i % 2 else reversed(order):
            rates[i, k], cores[i, k] = sides[k].ask("load")
    if len({side.facts["pixels"] for side in sides}) > 1:
        raise SystemExit("The two sides do not load the same pixels.")
    for k, side in enumerate(sides):
        ratio = np.median(rates[:, k] / rates[:, 0])
        print(
            f"{size:4} px {workers:3} workers  {side.facts['implementation']:20}"
            f"{np.median(rates[:, k]):8.0f} images/s{ratio:7.2f} of ours"
            f"{np.median(cores[:, k]):6.2f} cores",
            flush=True,
        )
        side.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", type=int, default=[64, 256])
    parser.add_argument("--workers", nargs="+", type=int, default=[1, 2, 4])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--shape", nargs=2, type=int, default=[375, 500])
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--torch", default=sys.executable, help="interpreter with torch")
    args = parser.parse_args()
    torch = args.torch if has_torch(args.torch) else None
    if torch is None:
        print("torch is not here: ours runs alone.")
    with tempfile.TemporaryDirectory() as folder:
        make_folder(Path(folder), args.images, *args.shape)
        for size in args.sizes:
            times = [one_thread(file, size) for file in Path(folder).iterdir()]
            whole, lock = np.median(times, axis=0)
            print(f"{size:4} px  an image {whole:.2f} ms, {lock:.2f} ms of them with the lock")
            for workers in args.workers:
                compare(Path(folder), size, workers, args.rounds, torch)


if __name__ == "__main__":
    main()
