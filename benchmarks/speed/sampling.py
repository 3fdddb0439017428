"""How much time does a sampler's loop add to the network, and how fast is it beside diffusers?

    python -m benchmarks.speed.sampling [--steps 5] [--batch 8] [--rounds 5] [--torch PYTHON]
        [--json OUT]

The network is DDPM for CIFAR-10 (35 M parameters, float32), sampled in `--steps` steps. Our methods
are DDIM and Heun on the flow ODE, ancestral sampling, and reverse diffusion with a Langevin
corrector (PC). They are compared with the UNet2DModel of diffusers in the loops of its
DDIMScheduler and DDPMScheduler, in PyTorch. Each side is a process of its own, and the two run in
turn. `overhead` is the time of a loop divided by that of as many calls of the same network, as the
median over rounds. `ratio` is images per second divided by those of our code with the same method.
PYTHON is an interpreter with the peers, see `benchmarks.speed.train_step`.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.speed.train_step import PAUSE, Worker, has_peers

# Methods that both sides have: diffusers' name, and ours.
SAME = {"DDIMScheduler": "ddim", "DDPMScheduler": "ancestral"}


def measure(workers: list[Worker], rounds: int) -> list[dict[str, list[float]]]:
    """Return, for each worker, the seconds in every round of everything it runs, by name."""
    times = [{name: [] for name in asked(worker)} for worker in workers]
    for i in range(rounds):
        order = list(zip(workers, times))
        for worker, seconds in order if i % 2 else reversed(order):
            time.sleep(PAUSE)
            worker.ask(asked(worker)[0])  # not counted, as in `train_step`
            for name, values in seconds.items():
                values.append(worker.ask(name))
    return times


def asked(worker: Worker) -> list[str]:
    """Return what is timed: the samplers, and the network alone for each of their NFE."""
    counts = sorted({loop["nfe"] for loop in worker.facts["loops"].values()})
    return [*worker.facts["loops"], *(f"bare {count}" for count in counts)]


def rows_of(
    facts: dict[str, Any], seconds: dict[str, list[float]], batch: int, ours: dict[str, list[float]]
) -> list[dict[str, Any]]:
    """Return a row for each sampler of a side; `ours` are the seconds of our side."""
    rows = []
    for name, loop in facts["loops"].items():
        took, alone = np.asarray(seconds[name]), np.asarray(seconds[f"bare {loop['nfe']}"])
        like = ours.get(SAME.get(name, name))
        rows.append({
            "implementation": facts["implementation"],
            "sampler": name,
            "nfe": loop["nfe"],
            "batch": batch,
            "seconds": float(np.median(took)),
            "images_per_s": batch / float(np.median(took)),
            "overhead": float(np.median(took / alone)),
            "compile_s": loop["compile_s"],
            "ratio": float(np.median(np.asarray(like) / took)),
        })  # fmt: skip
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--torch", default=sys.executable, help="interpreter with the peers")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    options = {"steps": args.steps, "batch": args.batch}
    workers = [Worker(sys.executable, "sampling_jax", **options)]
    if has_peers(args.torch):
        workers.append(Worker(args.torch, "sampling_torch", **options))
    else:
        print("diffusers is not here: ours runs alone.")
    times = measure(workers, args.rounds)
    rows = []
    for worker, seconds in zip(workers, times):
        peak = worker.ask("peak")
        for row in rows_of(worker.facts, seconds, args.batch, times[0]):
            rows.append({**row, "peak_mib": peak})
            print_row(rows[-1])
        worker.close()
    if args.json:
        args.json.write_text(json.dumps(rows, indent=2) + "\n")


def print_row(row: dict[str, Any]) -> None:
    print(
        f"{row['implementation']:26}{row['sampler']:30}{row['nfe']:4} NFE{row['seconds']:8.3f} s"
        f"{row['images_per_s']:7.2f} images/s  overhead{row['overhead']:6.3f}"
        f"  ratio{row['ratio']:6.2f}{row['peak_mib']:7.0f} MiB"
        f"  compiled in {row['compile_s']:.1f} s",
        flush=True,
    )


if __name__ == "__main__":
    main()
