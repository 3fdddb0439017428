"""How fast is a training step compared with PyTorch, and how near to the machine's peak?

    python -m benchmarks.speed.train_step [--network ddpm ncsnpp] [--rounds 7] [--torch PYTHON]
                                    [--json OUT] [--sweep] [--one-core]

DDPM for CIFAR-10 (35 M parameters, batch 8) is compared with diffusers' UNet2DModel, and the
continuous NCSN++ (63 M, batch 4) with that of score-models. A step is forward, backward, clipping,
Adam and average, in float32 with dropout.

- Every implementation is a process of its own (`train_step_jax`, `train_step_torch`), so that each
  has its own memory and thread pools do not share a core. The processes step in turn, and the
  result is the median over rounds of the ratio in a round.
- The peak is the rate of a product of two 3072 x 3072 matrices, which every process makes in every
  round. It is the median of the fastest products, as many as there are rounds.
- The work is three times that of a forward pass, which `speed/work.py` counts for each network.

PYTHON is an interpreter with torch, diffusers and score-models; without one, our code runs alone.
With `--sweep` the script measures our step by batch, resolution and width instead. `--one-core` is
for a busy machine, where PyTorch on all cores took four times as long: everything runs on the last
core, and seconds are CPU seconds.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
# Batch and peer of each network.
NETWORKS = {"ddpm": (8, "diffusers"), "ncsnpp": (4, "score-models")}
PAUSE = 0.3  # seconds, in which the threads of the previous process go to sleep
# Options of a sweep. Resolutions have width 32, so that a CPU can run them; the others have 32 px.
SWEEP = [
    *({"batch": batch} for batch in (1, 2, 4, 8, 16)),
    *({"nf": nf, "batch": 4} for nf in (32, 64, 128)),
    *({"nf": 32, "batch": 1, "size": size} for size in (32, 64, 128, 256)),
]


class Worker:
    """A process that answers requests with measurements.

    It answers `step` and `forward` with seconds, `matmul` with GFLOP/s and `peak` with MiB.
    """

    def __init__(self, python: str, module: str, **options: Any):
        argv = [python, "-m", f"benchmarks.speed.{module}"]
        argv += [f"--{key}={value}" for key, value in options.items()]
        self._process = subprocess.Popen(
            argv, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        # Implementation, parameters, gflop of a step, compile_s.
        self.facts = self._answer()

    def ask(self, what: str) -> float:
        self._process.stdin.write(what + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> Any:
        for line in self._process.stdout:
            if line.startswith("answer "):
                return json.loads(line.removeprefix("answer "))
        raise SystemExit(f"a worker ended with status {self._process.wait()}")

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait()


def has_peers(python: str) -> bool:
    code = "import torch, diffusers, score_models"
    return subprocess.run([python, "-c", code], capture_output=True).returncode == 0


def compare(network: str, rounds: int, torch: str | None) -> list[dict[str, Any]]:
    """Return a row for each implementation of a network, ours first."""
    batch, peer = NETWORKS[network]
    workers = [Worker(sys.executable, "train_step_jax", network=network, batch=batch)]
    if torch:
        workers.append(Worker(torch, "train_step_torch", network=network, batch=batch))
    else:
        print(f"{peer} is not here: ours runs alone.")
    seconds = np.zeros((rounds, len(workers)))
    forward, rates = np.zeros_like(seconds), []
    for i in range(rounds):
        order = range(len(workers))
        for k in order if i % 2 else reversed(order):
            time.sleep(PAUSE)
            # This step is not counted, because on some hosts a process that waited gets its memory
            # back page by page.
            workers[k].ask("step")
            seconds[i, k], forward[i, k] = workers[k].ask("step"), workers[k].ask("forward")
            rates.append(workers[k].ask("matmul"))
    peak = float(np.median(np.sort(rates)[-rounds:]))
    rows = []
    for k, worker in enumerate(workers):
        step = float(np.median(seconds[:, k]))
        rows.append({
            **worker.facts,
            "network": network,
            "batch": batch,
            "seconds": step,
            "forward_seconds": float(np.median(forward[:, k])),
            "images_per_s": batch / step,
            "share_of_peak": worker.facts["gflop"] / step / peak,
            "peak_gflops": peak,
            "peak_mib": worker.ask("peak"),
            # Images per second of this row divided by those of ours, round by round.
            "ratio": float(np.median(seconds[:, 0] / seconds[:, k])),
        })  # fmt: skip
        worker.close()
    return rows


def sweep() -> list[dict[str, Any]]:
    rows = []
    for options in SWEEP:
        worker = Worker(sys.executable, "train_step_jax", network="ddpm", **options)
        seconds = float(np.median([worker.ask("step") for _ in range(5)]))
        peak = float(np.median([worker.ask("matmul") for _ in range(5)]))
        batch = options["batch"]
        rows.append({
            **worker.facts,
            "network": "ddpm",
            **{"nf": 128, "size": 32, **options},
            "seconds": seconds,
            "images_per_s": batch / seconds,
            "share_of_peak": worker.facts["gflop"] / seconds / peak,
            "peak_mib": worker.ask("peak"),
        })  # fmt: skip
        worker.close()
        print_row(rows[-1])
    return rows


def print_row(row: dict[str, Any]) -> None:
    told = {"nf", "size", "ratio", "forward_seconds", "planned_mib"} & row.keys()
    more = "  ".join(f"{key} {row[key]:.4g}" for key in sorted(told))
    print(
        f"{row['implementation']:24}{row['network']:7} batch {row['batch']:3}"
        f"{row['parameters']:12,} parameters {row['gflop']:8.1f} GFLOP {row['seconds']:7.3f} s"
        f"{row['images_per_s']:8.2f} images/s{row['share_of_peak']:6.2f} of the peak"
        f"{row['peak_mib']:7.0f} MiB  compiled in {row['compile_s']:.1f} s  {more}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--torch", default=sys.executable, help="interpreter with the peers")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--sweep", action="store_true")
    parser.add_argument("--one-core", action="store_true")
    args = parser.parse_args()
    if args.one_core:
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})  # the workers inherit it
    if args.sweep:
        rows = sweep()
    else:
        torch, rows = args.torch if has_peers(args.torch) else None, []
        for network in args.network:
            rows += compare(network, args.rounds, torch)
            for row in rows[-2 if torch else -1 :]:
                print_row(row)
    if args.json:
        args.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
