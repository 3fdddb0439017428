"""What do streamed moments and the Frechet distance cost, compared with plain NumPy and SciPy?

    OPENBLAS_NUM_THREADS=1 python -m benchmarks.speed.frechet [--dims 2048] [--examples 10000]
        [--sizes 5000 10000 20000]

Features are drawn batch by batch in float32, as an extractor would return them. `streamed` is
`metrics.statistics.stream` on the batches; `direct` holds all features in float64 and uses
`np.mean` and `np.cov`. For the distance between two such sets, `frechet_distance` is compared with
the trace of `scipy.linalg.sqrtm(C1 @ C2)`. Both direct forms are those of pytorch-fid. They are
timed in turn with ours, without the drawing; the ratio is the median over rounds. For memory, each
row is a process of its own (Linux), and the figure is the rise of the peak of its resident memory.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
from scipy.linalg import sqrtm

from benchmarks.speed.streaming import forget, resident
from benchmarks.speed.timing import ratio_of
from evaluation.metrics.frechet import Moments, frechet_distance
from evaluation.metrics.statistics import stream
from evaluation.spaces.features import FeatureSpace

SPACE = FeatureSpace("given", "given", lambda features: features)


def drawn(n: int, d: int, batch: int, seed: int) -> Iterator[np.ndarray]:
    """Yield batches (batch, d) of features, non-negative and skewed like those of a network.

    The scales of the d features go from 0.1 to 1.
    """
    rng = np.random.default_rng(seed)
    scale = np.geomspace(0.1, 1.0, d, dtype=np.float32)
    for start in range(0, n, batch):
        count = min(batch, n - start)
        yield scale * rng.standard_exponential((count, d), np.float32)


def gathered(batches, n: int, d: int) -> np.ndarray:
    """Return all features (n, d) in float64."""
    features, start = np.empty((n, d)), 0
    for batch in batches:
        features[start : start + len(batch)] = batch
        start += len(batch)
    return features


def direct(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.mean(features, axis=0), np.cov(features, rowvar=False)


def by_sqrtm(a: Moments, b: Moments) -> float:
    gap, root = a.mean - b.mean, sqrtm(a.cov @ b.cov)
    return float(gap @ gap + np.trace(a.cov + b.cov) - 2 * np.trace(root.real))


def child(form: str, n: int, d: int, batch: int) -> None:
    """Print the peak memory of one way to compute the moments, in MiB, as JSON."""
    # Libraries allocate some memory once, at their first use; it is not counted.
    stream(SPACE, drawn(batch, d, batch, 1))
    held = forget()
    if form == "streamed":
        stream(SPACE, drawn(n, d, batch, 0))
    else:
        direct(gathered(drawn(n, d, batch, 0), n, d))
    print(json.dumps(resident("VmHWM") - held))


def peak(*arguments) -> float:
    command = [sys.executable, "-m", "benchmarks.speed.frechet", "--child", *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(result.stdout.splitlines()[-1])


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dims", type=int, default=2048)
    parser.add_argument("--examples", type=int, default=10_000, help="of the timed sets")
    parser.add_argument("--sizes", type=int, nargs="+", default=[5000, 10_000, 20_000])
    parser.add_argument("--batch", type=int, default=500)
    parser.add_argument("--repeats", type=int, default=5, help="the distance takes half of them")
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    given = parser.parse_args(argv)
    if given.child:
        return child(given.child[0], *map(int, given.child[1:]))
    n, d = given.examples, given.dims
    batches = list(drawn(n, d, given.batch, 0))
    features = gathered(batches, n, d)
    a, b = stream(SPACE, batches), stream(SPACE, drawn(n, d, given.batch, 1))
    print(f"{n} x {d}: ours s, direct s, ratio of times, relative difference of the results")
    mean, cov = direct(features)
    gap = max(np.abs(a.mean - mean).max() / mean.max(), np.abs(a.cov - cov).max() / cov.max())
    ratio, ours, theirs = ratio_of(
        lambda: stream(SPACE, batches).scatter, lambda: direct(features)[1], given.repeats
    )
    print(f"moments  {ours:>8.2f}{theirs:>8.2f}{ratio:>8.2f}{gap:>10.1e}")
    found, truth = frechet_distance(a, b), by_sqrtm(a, b)
    ratio, ours, theirs = ratio_of(
        lambda: frechet_distance(a, b), lambda: by_sqrtm(a, b), (given.repeats + 1) // 2
    )
    print(f"distance {ours:>8.2f}{theirs:>8.2f}{ratio:>8.2f}{abs(found / truth - 1):>10.1e}")
    print("peak memory above the start, MiB: streamed, direct")
    for size in given.sizes:
        row = [peak(form, size, d, given.batch) for form in ("streamed", "direct")]
        print(f"{size:>8} x {d}{row[0]:>8.0f}{row[1]:>8.0f}")


if __name__ == "__main__":
    main()
