"""What does a training step exchange between devices, and how long would that take on a pod?

    python -m benchmarks.speed.scaling [--config configs/vp/ddpm/cifar10_continuous.py] [--batch 16]
                                 [--json OUT]

The script compiles the step for 1 to 8 simulated devices on the processor, and reads from the
programs which collectives they have and how many bytes these move. Beside them stands the least
possible: one sum of all gradients and, where the state is split, one gathering of its split leaves.
Nothing is run. Then the script projects step times from these bytes, XLA's count of operations and
published peaks; docs/devices.md has the assumptions.
"""

import xla_flags  # noqa: F401, I001 - sets XLA's flags before jax is imported

import argparse
import json
import math
import re
from pathlib import Path
from typing import Any, NamedTuple

import jax

from builders.training import build_optimizer
from parallel.mesh import gathered, mesh_of, state_shardings
from tools.describe import Step, abstract_step, load, network_of
from training.plan import MIB
from training.sharding import KEEP_BARRIERS, jit_step
from training.state import parameter_count
from training.step import make_train_step

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
SIZES = {"f32": 4, "u32": 4, "s32": 4, "bf16": 2, "f16": 2, "u8": 1, "pred": 1}
# (number of devices, number over which the state is split)
MESHES = ((1, 1), (2, 1), (4, 1), (8, 1), (8, 2), (8, 8))


class Chip(NamedTuple):
    """Published peaks of a device, per second.

    `flops` are operations, `memory` bytes to and from its memory, `links` bytes to the other
    devices in one direction; `devices` is the number of devices in the job.
    """

    name: str
    devices: int
    flops: float
    memory: float
    links: float


CHIPS = (
    Chip("8 x H100 SXM, TF32", 8, 494.7e12, 3.35e12, 450e9),
    Chip("8 x H100 SXM, bfloat16", 8, 989.4e12, 3.35e12, 450e9),
    Chip("v5e-256, bfloat16", 256, 197e12, 819e9, 200e9),
)
SHARES = (0.2, 0.4, 0.6)  # of the peak; the true share is unknown, so three are projected


def collectives(text: str) -> dict[str, tuple[int, int]]:
    """Return (number, bytes of results) of each kind of collective in a compiled program."""
    found = dict.fromkeys(KINDS, (0, 0))
    for shape, kind in re.findall(rf"= (.*?) ({'|'.join(KINDS)})(?:-start)?\(", text):
        count, total = found[kind]
        found[kind] = count + 1, total + bytes_of(shape)
    return found


def bytes_of(shape: str) -> int:
    """Return the bytes of the arrays in a shape as XLA writes it, `(f32[3,4]{1,0}, s32[])`."""
    arrays = re.findall(r"([a-z]+[0-9]*)\[([0-9,]*)\]", shape)
    number = lambda dims: math.prod(int(d) for d in dims.split(",") if d)
    return sum(SIZES[dtype] * number(dims) for dtype, dims in arrays)


def compiled(config: Any, step: Step, devices: int, fsdp: int) -> Any:
    mesh = mesh_of(jax.devices()[:devices], fsdp)
    tx = build_optimizer(config.optim, config.training.n_iters)
    run = make_train_step(gathered(step.loss, mesh), tx, config.training.ema_rate)
    jitted = jit_step(run, mesh, 1, state_shardings(step.state, mesh))
    # XLA chooses the collectives before it optimises the code, so the optimisation can be skipped.
    options = {**KEEP_BARRIERS, "xla_backend_optimization_level": 0}
    return jitted.lower(step.state, step.batch).compile(compiler_options=options)


def row(config: Any, step: Step, devices: int, fsdp: int) -> dict[str, Any]:
    """Return what the program of a mesh exchanges, and the least possible, in MiB."""
    program = compiled(config, step, devices, fsdp)
    found, memory = collectives(program.as_text()), program.memory_analysis()
    params = step.state.params
    where = state_shardings(params, mesh_of(jax.devices()[:devices], fsdp))
    leaves = zip(jax.tree.leaves(params), jax.tree.leaves(where))
    split = sum(leaf.size for leaf, sharding in leaves if not sharding.is_fully_replicated)
    return {
        "devices": devices,
        "fsdp": fsdp,
        **{kind: {"count": n, "mib": size / MIB} for kind, (n, size) in found.items()},
        "least_summed_mib": 4 * parameter_count(params) / MIB * (devices > 1),
        "least_gathered_mib": 4 * split / MIB,
        "state_mib": memory.argument_size_in_bytes / MIB,
        "gflop": program.cost_analysis()["flops"] / 1e9,
    }


def projection(chip: Chip, flops: float, parameters: int, share: float) -> dict[str, float]:
    """Return the milliseconds of a step and of its parts, which run one after the other.

    The parts are the operations of the network, the passes of Adam and EMA over their state, and
    the sum of float32 gradients around a ring.

    Args:
        flops: operations of a step on one device.
        parameters: number of parameters.
        share: share of the chip's peak rate that the operations reach.
    """
    n = chip.devices
    compute = flops / (share * chip.flops)
    # Parameters, average and the two moments are read and written; the gradient is read.
    update = 9 * 4 * parameters / chip.memory
    exchange = 2 * (n - 1) / n * 4 * parameters / chip.links
    parts = {"compute": compute, "update": update, "exchange": exchange}
    return {name: 1e3 * seconds for name, seconds in {**parts, "step": sum(parts.values())}.items()}


def print_rows(rows: list[dict[str, Any]]) -> None:
    """Print number and MiB of sums and gatherings, with the least possible in brackets."""
    print("devices fsdp    summed, MiB           gathered, MiB        others  state, MiB  GFLOP")
    for r in rows:
        summed, gather = r["all-reduce"], r["all-gather"]
        others = sum(r[kind]["count"] for kind in KINDS[2:])
        print(
            f"{r['devices']:7} {r['fsdp']:4} "
            f"{summed['count']:4} x {summed['mib']:.2f} ({r['least_summed_mib']:.2f})"
            f"{gather['count']:6} x {gather['mib']:.2f} ({r['least_gathered_mib']:.2f})"
            f"{others:8}{r['state_mib']:12.1f}{r['gflop']:9.1f}",
            flush=True,
        )


def project(step: Step, gflop_per_image: float, batch: int) -> list[dict[str, Any]]:
    """Print and return the projections for a global batch."""
    parameters, rows = parameter_count(step.state.params), []
    print(f"\nProjected, batch {batch}, {gflop_per_image:.1f} GFLOP an image, ms a step")
    for chip in CHIPS:
        size = max(batch, chip.devices)
        for share in SHARES:
            flops = gflop_per_image * 1e9 * size / chip.devices
            parts = projection(chip, flops, parameters, share)
            rate = 1e3 * size / parts["step"]
            rows.append({"chip": chip.name, "batch": size, "share": share, **parts, "rate": rate})
            told = "  ".join(f"{name} {ms:.2f}" for name, ms in parts.items())
            print(f"{chip.name:24} batch {size:4}, {share:.0%} of the peak: {told}  {rate:,.0f}/s")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = Path("configs/vp/ddpm/cifar10_continuous.py")
    parser.add_argument("--config", type=Path, default=default)
    parser.add_argument("--batch", type=int, default=16, help="global, of the compiled programs")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    jax.config.update("jax_num_cpu_devices", 8)
    config = load(args.config)
    step = abstract_step(config, network_of(config)[1], args.batch)
    print(f"{args.config}: {parameter_count(step.state.params):,} parameters, batch {args.batch}")
    rows = [row(config, step, *mesh) for mesh in MESHES]
    print_rows(rows)
    per_image = rows[0]["gflop"] / args.batch
    projected = project(step, per_image, config.training.batch_size)
    if args.json:
        args.json.write_text(json.dumps({"rows": rows, "projected": projected}, indent=2) + "\n")


if __name__ == "__main__":
    main()
