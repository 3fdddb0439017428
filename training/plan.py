"""The cost of a training step, known before the first step: operations, memory, compile time."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

MIB = 2**20


class Plan(NamedTuple):
    """The cost of one step on each device, as XLA counts it.

    `gflop`: 10^9 floating-point operations. `state_mib`: MiB of parameters, average, moments and
    batch. `besides_mib`: MiB of temporary memory. `seconds`: time to compile the program, or to
    load it from a cache.
    """

    gflop: float
    state_mib: float
    besides_mib: float
    seconds: float

    def __str__(self) -> str:
        return (
            f"A step takes {self.gflop:,.1f} GFLOP on each device, {self.state_mib:,.0f} MiB for "
            f"the state and {self.besides_mib:,.0f} MiB besides; compiled in {self.seconds:.1f} s"
        )


def compile_step(
    step: Any, state: Any, batch: dict[str, jax.Array], *frozen: Any
) -> tuple[Callable, Plan]:
    """Compile a jitted step for arguments of these shapes; return the program and its plan."""
    begin = time.perf_counter()
    compiled = step.lower(state, batch, *frozen).compile()
    seconds = time.perf_counter() - begin
    memory, cost = compiled.memory_analysis(), compiled.cost_analysis()
    return compiled, Plan(
        gflop=(cost or {}).get("flops", float("nan")) / 1e9,
        state_mib=memory.argument_size_in_bytes / MIB,
        besides_mib=memory.temp_size_in_bytes / MIB,
        seconds=seconds,
    )
