"""Timing on a shared and noisy machine: interleaved calls, medians and ratios."""

import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np


def interleaved(functions: dict[str, Callable[[], object]], repeats: int = 20) -> dict[str, float]:
    """Return the median seconds of each function; every round calls all of them in turn.

    The time of a call ends when the arrays that it returns are ready. The first call, which
    compiles, is not counted.
    """
    for function in functions.values():
        jax.block_until_ready(function())
    times: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(repeats):
        for name, function in functions.items():
            begin = time.perf_counter()
            jax.block_until_ready(function())
            times[name].append(time.perf_counter() - begin)
    return {name: float(np.median(values)) for name, values in times.items()}


def ratio_of(
    one: Callable[[], object], other: Callable[[], object], repeats: int = 20
) -> tuple[float, float, float]:
    """Return `(ratio, seconds of one, seconds of other)`, each a median over rounds.

    `ratio` is the median of the ratio within a round. The two functions are called in turn, in
    alternating order, so that slow stretches of the machine affect both.
    """
    jax.block_until_ready((one(), other()))
    first, second = [], []
    for i in range(repeats):
        for function, times in [(one, first), (other, second)][:: 1 if i % 2 else -1]:
            begin = time.perf_counter()
            jax.block_until_ready(function())
            times.append(time.perf_counter() - begin)
    ratios = np.asarray(first) / np.asarray(second)
    return float(np.median(ratios)), float(np.median(first)), float(np.median(second))


def matmul(n: int = 3072) -> tuple[Callable[[], jax.Array], float]:
    """Return a product of n x n matrices and its GFLOP; its rate is taken as the machine's peak."""
    a = jnp.asarray(np.random.default_rng(0).standard_normal((n, n)), jnp.float32)
    product = jax.jit(lambda a: a @ a)
    return lambda: product(a), 2e-9 * n**3
