"""What metrics take of a set of images, gathered in one pass over them.

Some metrics look at all features at once, (n, d); the Frechet distance needs moments of blocks of
them only, which are streamed, so that no set is too large. Which it is, the metrics say.
"""

import itertools
from collections.abc import Sequence, Set
from typing import NamedTuple

import jax
import numpy as np

from evaluation.metrics.frechet import Moments, merge_all
from evaluation.metrics.statistics import stream
from evaluation.report.images import Images
from evaluation.spaces.features import Features, FeatureSpace
from parallel.processes import each

BLOCKS = 10  # of the error bars
# What a metric may need.
FEATURES, MOMENTS, PROBABILITIES = "features", "moments", "probabilities"


class Gathered(NamedTuple):
    """What was gathered of `n` images in the space of that id.

    `features`: all of them, with probabilities of classes where these are needed. Where no metric
    needs them, None, and `pieces` are the moments of consecutive pieces, in blocks cut at
    `cuts(n)`.
    """

    space: str
    n: int
    features: Features | None
    pieces: list[Moments] | None

    def moments(self) -> Moments:
        return Moments.of(self.features) if self.pieces is None else merge_all(self.pieces)

    def blocks(self, edges: Sequence[int]) -> list[Moments]:
        """Moments of the images from each edge to the next; edges are some of `cuts(n)`."""
        pairs = list(itertools.pairwise(edges))
        if self.pieces is None:
            values = self.features.values
            return [Moments.of(Features(self.space, values[a:b])) for a, b in pairs]
        places = {edge: k for k, edge in enumerate(cuts(self.n))}
        return [merge_all(self.pieces[places[a] : places[b]]) for a, b in pairs]


def gather(
    space: FeatureSpace, images: Images, needs: Set[str], *, in_blocks: bool = True
) -> Gathered:
    """All that `needs` names, from a batch of images at a time.

    The processes of a job share the work.

    Args:
        in_blocks: whether `blocks` will be asked for; otherwise there is one piece a process.
    """
    if FEATURES in needs or PROBABILITIES in needs:
        found = features(space, images, PROBABILITIES in needs)
        return Gathered(space.id, len(images), found, None)
    if not needs:
        return Gathered(space.id, len(images), None, [])
    edges = cuts(len(images)) if in_blocks else shares(len(images))

    def piece(k: int) -> dict[str, np.ndarray]:
        found = stream(space, images.part(edges[k], edges[k + 1]).batches())
        return {"n": found.n, "mean": found.mean, "scatter": found.scatter}

    parts = each(len(edges) - 1, piece)
    pieces = [Moments(space.id, int(p["n"]), p["mean"], p["scatter"]) for p in parts]
    return Gathered(space.id, len(images), None, pieces)


def features(space: FeatureSpace, images: Images, classes: bool = False) -> Features:
    """Features of all images, (n, d), from a batch of them at a time, with probabilities of classes
    if these are wanted. The processes of a job share the batches."""
    extract = space.with_probabilities if classes else space

    def part(i: int) -> dict[str, np.ndarray]:
        found = extract(images.batch(i))._asdict()
        return {key: value for key, value in found.items() if isinstance(value, np.ndarray)}

    return Features(space.id, **joined(each(images.count(), part)))


def joined(parts: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The arrays of all parts, one after the other. Parts are given up as they are copied, so that
    the memory is that of one set."""
    sizes = {key: sum(len(part[key]) for part in parts) for key in parts[0]}
    whole = {
        key: np.empty((sizes[key], *array.shape[1:]), array.dtype)
        for key, array in parts[0].items()
    }
    ends = dict(sizes)
    while parts:
        for key, array in parts.pop().items():
            first = ends[key] - len(array)
            whole[key][first : ends[key]], ends[key] = array, first
    return whole


def equal_edges(n: int) -> list[int]:
    """Ends of ten blocks of one size, or of as many as there are images; a rest is left out."""
    count = min(BLOCKS, n)
    return [k * (n // count) for k in range(count + 1)]


def even_edges(n: int) -> list[int]:
    """Ends of ten blocks, or of as many as there are images, equal in size up to one."""
    sizes = [len(part) for part in np.array_split(np.empty(n), min(BLOCKS, n))]
    return [0, *np.cumsum(sizes).tolist()]


def cuts(n: int) -> list[int]:
    """All ends of pieces from which both kinds of blocks, and the whole, can be joined."""
    return sorted({*equal_edges(n), *even_edges(n), n})


def shares(n: int) -> list[int]:
    """Ends of one piece for each process of the job, or of as many as there are images."""
    count = min(jax.process_count(), n)
    return [k * n // count for k in range(count + 1)]
