"""What does the optimal denoiser of a large data set cost, and is it exact?

    python -m benchmarks.speed.streaming [--points 60000] [--dims 784 3072] [--states 64 1024]

Each row is a process of its own (Linux). The memory is the rise of the peak of its resident memory,
first while the points are prepared, then in the first calls in float32, compilation included. The
time is the median of three calls. `stream` is `empirical_predict`; `dense` is the same formula with
all `(B, N)` distances at once. The last table has the error of the posterior mean against NumPy in
float64, where distances are computed from the differences. Its data are pairs of points about three
noise levels apart, so that weights are neither 0 nor 1, and a float32 product of the points
themselves would not be exact enough.
"""

import argparse
import ctypes
import gc
import json
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from exact.empirical import Points, empirical_predict, points
from sde_lib import EDM

CHECKED = 8  # states compared with float64


def pairs(count: int, dims: int, sigma: float) -> np.ndarray:
    """Return points uniform in [-1, 1], each with a second one about 3 sigma away, float32."""
    rng = np.random.default_rng(0)
    first = rng.uniform(-1.0, 1.0, (count // 2, dims)).astype(np.float32)
    apart = 3.0 * sigma / dims**0.5 * rng.standard_normal(first.shape, np.float32)
    return np.concatenate([first, first + apart])


def between(data: np.ndarray, count: int, sigma: float) -> np.ndarray:
    """Return states `(count, D)` halfway between the points of a pair, with noise of sigma."""
    half = len(data) // 2
    chosen = np.linspace(0, half - 1, count).astype(int)
    noise = np.random.default_rng(1).standard_normal((count, data.shape[1]), np.float32)
    return (data[chosen] + data[half + chosen]) / 2 + np.float32(sigma) * noise


def dense(ready: Points, x: jax.Array, sigma: jax.Array) -> jax.Array:
    """Return the posterior mean `(B, D)` by one softmax over `(B, N)`."""
    flat = ready.blocks.reshape(-1, x.shape[1])[: ready.size]
    y, squares = x - ready.mean[None], ready.squares.reshape(-1)[: ready.size]
    full = jax.lax.Precision.HIGHEST
    d2 = squares[None] - 2.0 * jnp.matmul(y, flat.T, precision=full)
    share = jax.nn.softmax(-0.5 * d2 / sigma**2, axis=1)
    return ready.mean[None] + jnp.matmul(share, flat, precision=full)


def stream(ready: Points, x: jax.Array, sigma: jax.Array) -> jax.Array:
    return empirical_predict(EDM(), ready)(x, sigma).x0


def exact(data: np.ndarray, x: np.ndarray, sigma: float) -> np.ndarray:
    """Return the posterior means in float64, computed one state at a time."""
    means = []
    for state in x.astype(np.float64):
        parts = np.array_split(data, -(-len(data) // 4096))
        d2 = np.concatenate([np.sum((state - p) ** 2, axis=1) for p in parts])
        share = np.exp((d2.min() - d2) / (2.0 * sigma**2))
        means.append(share @ data / share.sum())
    return np.stack(means)


def resident(field: str) -> float:
    """Return MiB: "VmRSS", which this process holds, or "VmHWM", the most since `forget`."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(field)) / 1024.0


def forget() -> float:
    """Return free memory to the system, reset the peak, and return the MiB that are held."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    return resident("VmRSS")


def child(form: str, count: int, dims: int, states: int, block: int) -> None:
    """Print one row as JSON."""
    sigma = 0.01
    data = pairs(count, dims, sigma)
    x, size = jnp.asarray(between(data, states, sigma)), data.nbytes / 2**20
    held = forget()
    ready = jax.block_until_ready(points(data, block=block))
    making = resident("VmHWM") - held
    run = jax.jit({"stream": stream, "dense": dense}[form])
    held, seconds = forget(), []
    jax.block_until_ready(run(ready, x, sigma))
    for _ in range(3):
        begin = time.perf_counter()
        jax.block_until_ready(run(ready, x, sigma))
        seconds.append(time.perf_counter() - begin)
    call = resident("VmHWM") - held
    row = {"data": size, "making": making, "call": call, "s": float(np.median(seconds))}
    print(json.dumps(row))


def measured(*arguments) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.speed.streaming", "--child", *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(result.stdout.splitlines()[-1])


def errors(count: int, dims: int, sigma: float, block: int) -> tuple[float, float]:
    """Return the largest error of a mean's value in units of sigma: streamed, and dense."""
    data = pairs(count, dims, sigma)
    x, ready = between(data, CHECKED, sigma), points(data, block=block)
    truth = exact(data, x, sigma)
    found = (jax.jit(form)(ready, jnp.asarray(x), sigma) for form in (stream, dense))
    return tuple(float(np.max(np.abs(v - truth))) / sigma for v in found)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--points", type=int, default=60_000)
    parser.add_argument("--dims", type=int, nargs="+", default=[784, 3072])
    parser.add_argument("--states", type=int, nargs="+", default=[64, 1024])
    parser.add_argument("--block", type=int, default=1024)
    parser.add_argument("--child", nargs=5, help=argparse.SUPPRESS)
    given = parser.parse_args(argv)
    if given.child:
        return child(given.child[0], *map(int, given.child[1:]))
    print("MiB: the data, making them ready, a call; seconds of a call")
    for dims in given.dims:
        for states in given.states:
            for form in ("stream", "dense"):
                row = measured(form, given.points, dims, states, given.block)
                print(
                    f"{given.points} x {dims}, {states:>4} states, {form:<6} {row['data']:>8.0f}"
                    f"{row['making']:>8.0f}{row['call']:>8.0f}{row['s']:>9.2f}"
                )
    print("largest error over sigma, float32, streamed and dense")
    for sigma in (0.002, 0.01, 0.1, 1.0):
        found = errors(given.points, given.dims[0], sigma, given.block)
        print(f"sigma {sigma:<6g}{found[0]:>12.1e}{found[1]:>12.1e}")


if __name__ == "__main__":
    main()
