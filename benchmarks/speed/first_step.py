"""How long from the start of a process to its first training step, without and with a cache?

    python -m benchmarks.speed.first_step [--config configs/ve/cifar10_ncsnpp_deep_continuous.py]
                                    [--batch 4] [--rounds 3] [--json OUT]

Every round begins with an empty folder for compiled programs, and starts three processes one after
the other. Each of them runs what `main.py` runs: the initial state and the step of `jit_step`. The
first process finds an empty cache; the others find the first one's programs. The images are random.
Times are from the start of the process, including the start of Python.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
DEEP = ROOT / "configs/ve/cifar10_ncsnpp_deep_continuous.py"
# Stages of a process; the seconds of each are from the end of the previous stage.
STAGES = ("imports", "state", "traced", "compiled", "first_step")


def start(config: Path, batch: int, cache: Path) -> dict[str, float]:
    """Run a process; return the seconds of its stages, their `total`, and its peak MiB."""
    argv = [sys.executable, "-m", "benchmarks.speed.first_step", f"--config={config.resolve()}"]
    argv += [f"--batch={batch}", f"--cache={cache}"]
    begin = time.time()
    done = subprocess.run(argv, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    told = json.loads(done.stdout.splitlines()[-1])
    return {**lengths(begin, told["marks"]), "peak_mib": told["peak_mib"]}


def lengths(begin: float, marks: dict[str, float]) -> dict[str, float]:
    """Return the seconds of each stage, from the times at which the stages ended."""
    ends = [begin, *(marks[stage] for stage in STAGES)]
    return {**dict(zip(STAGES, np.diff(ends).tolist())), "total": ends[-1] - begin}


def child(config: Path, batch: int, cache: Path) -> None:
    """Import, build, compile and run a step, and print the time at which each stage ended."""
    import xla_flags  # noqa: F401, I001 - sets XLA's flags before jax is imported
    import jax

    from benchmarks.speed.train_step_jax import first_state_and_step, peak_mib
    from tools.describe import load

    jax.config.update("jax_compilation_cache_dir", str(cache))
    marks = {"imports": time.time()}
    state, images, step = first_state_and_step(load(config), batch, (32, 32, 3))
    jax.block_until_ready(state)
    marks["state"] = time.time()
    lowered = step.lower(state, images)
    marks["traced"] = time.time()
    compiled = lowered.compile()
    marks["compiled"] = time.time()
    jax.block_until_ready(compiled(state, images))
    marks["first_step"] = time.time()
    print(json.dumps({"marks": marks, "peak_mib": peak_mib()}))


def rounds_of(config: Path, batch: int, rounds: int) -> list[dict[str, Any]]:
    """Return a row for every process, in the order in which they ran."""
    rows = []
    for i in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            for cache in ("cold", "warm", "warm"):
                rows.append({"round": i, "cache": cache, **start(config, batch, Path(folder))})
                told = "".join(f"{stage} {rows[-1][stage]:7.1f}  " for stage in STAGES)
                print(f"{cache:6}{told}total {rows[-1]['total']:7.1f} s", flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", type=Path, default=DEEP)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--cache", type=Path, help=argparse.SUPPRESS)  # in a process being timed
    args = parser.parse_args()
    if args.cache:
        child(args.config, args.batch, args.cache)
        return
    rows = rounds_of(args.config, args.batch, args.rounds)
    for cache in ("cold", "warm"):
        chosen = [row for row in rows if row["cache"] == cache]
        median = {key: float(np.median([row[key] for row in chosen])) for key in (*STAGES, "total")}
        told = ", ".join(f"{key} {value:.1f}" for key, value in median.items())
        print(f"{cache}, median of {len(chosen)}: {told} s")
    if args.json:
        args.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
