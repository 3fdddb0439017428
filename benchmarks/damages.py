"""Of random damages to an array, how many does the checksum of checkpoints miss?

    python -m benchmarks.damages [--damages 10000] [--values 256] [--seed 4]

Each damage flips 2 to 64 bits of an array of float32: anywhere, in sign bits alone, or in one run
of neighbouring bits. Two more kinds exchange two words, and negate a share of the array. `mixed` is
the present checksum of checkpoints, `plain` that of earlier versions. By chance a sum of 32 bits
misses one damage in 2^32.
"""

import argparse
from collections.abc import Callable

import jax
import numpy as np

from training.checksum import bits_of, checksum, plain_sum

SIGN = np.uint32(2**31)
SUMS = {"mixed": checksum, "plain": plain_sum}


def anywhere(rng: np.random.Generator, words: np.ndarray) -> np.ndarray:
    """The words that a damage adds by exclusive or, (n,) uint32; so do the other kinds."""
    damage = np.zeros_like(words)
    for place in rng.choice(32 * words.size, rng.integers(2, 65), replace=False):
        damage[place // 32] ^= np.uint32(1 << (place % 32))
    return damage


def signs(rng: np.random.Generator, words: np.ndarray) -> np.ndarray:
    damage = np.zeros_like(words)
    damage[rng.choice(words.size, rng.integers(2, 65), replace=False)] = SIGN
    return damage


def neighbours(rng: np.random.Generator, words: np.ndarray) -> np.ndarray:
    damage, count = np.zeros_like(words), int(rng.integers(2, 65))
    first = rng.integers(0, 32 * words.size - count)
    for place in range(first, first + count):
        damage[place // 32] ^= np.uint32(1 << (place % 32))
    return damage


def exchanged(rng: np.random.Generator, words: np.ndarray) -> np.ndarray:
    damage, (i, j) = np.zeros_like(words), rng.choice(words.size, 2, replace=False)
    damage[i] = damage[j] = words[i] ^ words[j]
    return damage


def negated(rng: np.random.Generator, words: np.ndarray) -> np.ndarray:
    """The damage that changes the sign of every value after a random place."""
    return np.where(np.arange(words.size) >= rng.integers(0, words.size), SIGN, np.uint32(0))


KINDS: dict[str, Callable[[np.random.Generator, np.ndarray], np.ndarray]] = {
    "2 to 64 bits anywhere": anywhere,
    "2 to 64 sign bits": signs,
    "a run of 2 to 64 bits": neighbours,
    "two words exchanged": exchanged,
    "the rest of the array negated": negated,
}


def missed(kind: str, damages: int, values: int = 256, seed: int = 4) -> dict[str, int]:
    """The number of damages, out of `damages`, that leave each checksum unchanged."""
    rng = np.random.default_rng(seed)
    words = np.asarray(bits_of(rng.standard_normal(values).astype(np.float32)))
    harmed = words ^ np.stack([KINDS[kind](rng, words) for _ in range(damages)])
    assert np.all(np.any(harmed != words, axis=1))
    count = lambda total: int(np.sum(np.asarray(jax.vmap(total)(harmed)) == int(total(words))))
    return {name: count(total) for name, total in SUMS.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--damages", type=int, default=10_000)
    parser.add_argument("--values", type=int, default=256)
    parser.add_argument("--seed", type=int, default=4)
    args = parser.parse_args()
    print(f"| {args.damages:,} damages of {args.values} values | mixed misses | plain misses |")
    print("|---|---|---|")
    for kind in KINDS:
        found = missed(kind, args.damages, args.values, args.seed)
        print(f"| {kind} | {found['mixed']:,} | {found['plain']:,} |")


if __name__ == "__main__":
    main()
