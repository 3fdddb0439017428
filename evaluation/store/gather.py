"""The statistics of a set of images that metrics need, gathered in one pass over the images.

Some metrics need all features at once, (n, d). The Frechet distance needs only moments of blocks of
images, which are streamed, so that sets of any size fit into memory. `needs` in the table of
metrics says which of the two a metric takes.
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

BLOCKS = 10  # blocks of images, from which standard errors are estimated
# The values of `needs` of a metric.
FEATURES, MOMENTS, PROBABILITIES = "features", "moments", "probabilities"


class Gathered(NamedTuple):
    """Features or moments of `n` images, in the feature space with the id `space`.

    `features`: of all images, with class probabilities if a metric needs them. `features` is None
    if no metric needs more than moments; `pieces` are then the moments of consecutive pieces of the
    set, which end at `cuts(n)`, or at `shares(n)` if no blocks are needed.
    """

    space: str
    n: int
    features: Features | None
    pieces: list[Moments] | None

    def moments(self) -> Moments:
        return Moments.of(self.features) if self.pieces is None else merge_all(self.pieces)

    def blocks(self, edges: Sequence[int]) -> list[Moments]:
        """Moments of the images from each edge to the next; the edges are elements of `cuts(n)`."""
        pairs = list(itertools.pairwise(edges))
        if self.pieces is None:
            values = self.features.values
            return [Moments.of(Features(self.space, values[a:b])) for a, b in pairs]
        places = {edge: k for k, edge in enumerate(cuts(self.n))}
        return [merge_all(self.pieces[places[a] : places[b]]) for a, b in pairs]


def gather(
    space: FeatureSpace, images: Images, needs: Set[str], *, in_blocks: bool = True
) -> Gathered:
    """Gather what `needs` names, batch by batch. The processes of a job share the work.

    Args:
        needs: some of FEATURES, MOMENTS, PROBABILITIES.
        in_blocks: whether `Gathered.blocks` will be called; if not, there is one piece for each
            process.
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
    """Features of all images, (n, d), computed batch by batch, with class probabilities (n, C) if
    `classes` is true. The processes of a job share the batches."""
    extract = space.with_probabilities if classes else space

    def part(i: int) -> dict[str, np.ndarray]:
        found = extract(images.batch(i))._asdict()
        return {key: value for key, value in found.items() if isinstance(value, np.ndarray)}

    return Features(space.id, **joined(each(images.count(), part)))


def joined(parts: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Concatenate the arrays of all parts along the first axis.

    Each part is released after it is copied. The list `parts` is empty afterwards.
    """
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
    """Edges of ten blocks of one size (of n blocks if n < 10); remaining images are left out."""
    count = min(BLOCKS, n)
    return [k * (n // count) for k in range(count + 1)]


def even_edges(n: int) -> list[int]:
    """Edges of ten blocks (of n blocks if n < 10), whose sizes differ by at most one."""
    sizes = [len(part) for part in np.array_split(np.empty(n), min(BLOCKS, n))]
    return [0, *np.cumsum(sizes).tolist()]


def cuts(n: int) -> list[int]:
    """Edges of the pieces that can be merged to both kinds of blocks and to the whole set."""
    return sorted({*equal_edges(n), *even_edges(n), n})


def shares(n: int) -> list[int]:
    """Edges of one piece for each process of the job (of n pieces if there are more processes)."""
    count = min(jax.process_count(), n)
    return [k * n // count for k in range(count + 1)]
