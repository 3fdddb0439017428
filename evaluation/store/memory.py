"""What the host's memory must hold in `--mode eval`, estimated before anything is sampled.

    samples       n images in levels
    features      2 (m + n) (d + C) numbers, m of the reference; where a metric looks at all at once
    moments       (1 + blocks + 10) d^2 numbers: of the reference, of the samples, and ten while a
                  distance is taken

all in float64. The network and its batches are on the device, and not in this sum.
"""

import math
import os
from collections.abc import Collection
from pathlib import Path

from evaluation.metrics.table import METRICS
from evaluation.store.gather import BLOCKS, FEATURES, MOMENTS, PROBABILITIES, cuts

GIB = 2**30
FLOAT = 8  # bytes
WORK = 10  # matrices (d, d) that the root of a product of covariances takes beside the blocks
# Where a limit of a container stands, of version 2 and 1 of control groups.
LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def machine() -> int:
    """Bytes of memory that there are, or that the container may take."""
    found = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for path in map(Path, LIMITS):
        text = path.read_text().strip() if path.is_file() else ""
        found += [int(text)] if text.isdigit() else []
    return min(found)


def check_memory(experiment, widths: Collection[tuple[int, int]]) -> None:
    """Refuses an evaluation whose samples and distances do not fit.

    Args:
        widths: numbers of features and of classes of each space; none for samples alone.

    Raises:
        ValueError: with what is needed, what there is, and the mend.
    """
    section, shape = experiment.config.eval, experiment.shape
    n, there = section.num_samples, machine()
    samples = n * math.prod(shape) * value_bytes(experiment)
    parts = [distances_need(experiment, *width) for width in widths]
    features, moments = max(parts, key=sum, default=(0, 0))
    needed = samples + features + moments
    if needed <= there:
        return
    if moments > there:
        advice = f"take {spaces_that_fit()}, or --config.eval.enable_sampling=False"
    elif features > samples:
        advice = (
            "take --config.eval.metrics=\"('frechet',)\", whose moments are streamed, or lower "
            "eval.num_samples"
        )
    else:
        advice = "lower eval.num_samples"
    raise ValueError(
        f"--mode eval would need about {gib(needed)} of memory ({gib(samples)} for {n:,} samples, "
        f"{gib(features)} for features, {gib(moments)} for covariances), and this machine has "
        f"{gib(there)}; {advice}."
    )


def check_seeds(experiment, seeds: range) -> None:
    """Refuses numbers of samples, or of examples, whose results would not fit: each is kept as
    float32 and as levels until all are written."""
    needed, there = len(seeds) * math.prod(experiment.shape) * (4 + FLOAT), machine()
    if needed > there:
        raise ValueError(
            f"--seeds {seeds.start}-{seeds.stop - 1} are {len(seeds):,} numbers, whose results "
            f"would need about {gib(needed)} of memory, and this machine has {gib(there)}; write "
            "them in several calls."
        )


def check_moments(width: int) -> None:
    """Refuses the moments of a space of so many features, of data of any size."""
    needed, there = (1 + WORK) * width**2 * FLOAT, machine()
    if needed > there:
        raise ValueError(
            f"The moments of {width:,} features would need about {gib(needed)} of memory, and this "
            f"machine has {gib(there)}; take {spaces_that_fit()}."
        )


def check_fit(experiment) -> None:
    """Refuses to fit a classifier to more images than fit."""
    check_whole_split(
        experiment,
        "A classifier fitted to",
        "name the file of one in eval.classifier (tools.train_feature_classifier writes it), or "
        "take --config.eval.features=\"('inception',)\"",
    )


def check_mixture(experiment) -> None:
    """Refuses the mixture baseline for more images than fit."""
    check_whole_split(experiment, "The mixture of", "take --config.eval.mixture=False")


def check_whole_split(experiment, what: str, advice: str) -> None:
    """Refuses work on all training images at once, as floats and a copy of them."""
    train = experiment.train
    needed, there = 2 * train.size * math.prod(train.shape) * FLOAT, machine()
    if needed > there:
        raise ValueError(
            f"{what} the {train.size:,} training images would need about {gib(needed)} of memory, "
            f"and this machine has {gib(there)}; {advice}."
        )


def distances_need(experiment, features: int, classes: int) -> tuple[int, int]:
    """Bytes of all features and probabilities, and of moments, in a space of that width."""
    section = experiment.config.eval
    wanted = {METRICS[name].needs for name in section.metrics}
    wanted |= {MOMENTS} if section.statistics else set()
    n = section.num_samples
    reference = {"train": experiment.train, "test": experiment.test}[section.reference]
    kept = bool(wanted & {FEATURES, PROBABILITIES})
    rows = 2 * (reference.size + n) * (features + classes) * FLOAT if kept else 0
    blocks = 1 + (BLOCKS if kept else len(cuts(n)) - 1)
    matrices = (blocks + WORK) * features**2 * FLOAT if MOMENTS in wanted else 0
    return rows, matrices


def mend(experiment) -> str:
    """What to do without the weights of a network: pixels, if the machine has room for them."""
    width = math.prod(experiment.shape)
    if sum(distances_need(experiment, width, 0)) <= machine():
        return "or compare pixels, with --config.eval.features=\"('pixels',)\""
    return "or go without distances, with --config.eval.enable_sampling=False"


def spaces_that_fit() -> str:
    return "features of fewer dimensions, --config.eval.features=\"('inception',)\""


def value_bytes(experiment) -> int:
    """Bytes of one value of a sample, as samples are kept."""
    levels = experiment.scaler.levels
    return 4 if levels == 0 else 1 if levels <= 256 else 2


def gib(size: float) -> str:
    """In GiB, of which small numbers have a decimal."""
    value = size / GIB
    return f"{value:,.0f} GiB" if value >= 10 else f"{value:.1f} GiB"
