"""The memory that `--mode eval` needs on the host, estimated before anything is sampled.

    samples       n images in levels
    features      2 (m + n) (d + C) numbers, m images of the reference, if a metric needs all
                  features at once
    moments       (1 + blocks + 10) d^2 numbers: those of the reference, those of the samples, and
                  ten matrices while a distance is computed

Features and moments are float64. The network and its batches are on the device and do not count.
"""

import math
import os
from collections.abc import Collection
from pathlib import Path

from evaluation.metrics.table import METRICS
from evaluation.store.gather import BLOCKS, FEATURES, MOMENTS, PROBABILITIES, cuts

GIB = 2**30
FLOAT = 8  # bytes
WORK = 10  # further matrices (d, d) in memory while the root of two covariances is computed
# Files with the memory limit of a container, for versions 2 and 1 of control groups.
LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def machine() -> int:
    """Bytes of memory of the machine, or the limit of the container if that is less."""
    found = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for path in map(Path, LIMITS):
        text = path.read_text().strip() if path.is_file() else ""
        found += [int(text)] if text.isdigit() else []
    return min(found)


def check_memory(experiment, widths: Collection[tuple[int, int]]) -> None:
    """Refuse an evaluation whose samples and distances do not fit into memory.

    Args:
        widths: (features, classes) of each feature space; empty for samples alone.

    Raises:
        ValueError: with the memory needed, the memory available, and what to change.
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
    """Refuse a range of samples, or of examples, whose results do not fit into memory.

    Each result is kept as float32 and as levels until all are written.

    Raises:
        ValueError: with the memory needed and the memory available.
    """
    needed, there = len(seeds) * math.prod(experiment.shape) * (4 + FLOAT), machine()
    if needed > there:
        raise ValueError(
            f"--seeds {seeds.start}-{seeds.stop - 1} are {len(seeds):,} numbers, whose results "
            f"would need about {gib(needed)} of memory, and this machine has {gib(there)}; write "
            "them in several calls."
        )


def check_moments(width: int) -> None:
    """Refuse a feature space of `width` features whose moments do not fit into memory.

    Raises:
        ValueError: with the memory needed and the memory available.
    """
    needed, there = (1 + WORK) * width**2 * FLOAT, machine()
    if needed > there:
        raise ValueError(
            f"The moments of {width:,} features would need about {gib(needed)} of memory, and this "
            f"machine has {gib(there)}; take {spaces_that_fit()}."
        )


def check_fit(experiment) -> None:
    """Refuse to fit a classifier if the training images do not fit into memory."""
    check_whole_split(
        experiment,
        "A classifier fitted to",
        "name the file of one in eval.classifier (tools.train_feature_classifier writes it), or "
        "take --config.eval.features=\"('inception',)\"",
    )


def check_mixture(experiment) -> None:
    """Refuse the mixture baseline if the training images do not fit into memory."""
    check_whole_split(experiment, "The mixture of", "take --config.eval.mixture=False")


def check_whole_split(experiment, what: str, advice: str) -> None:
    """Refuse work that needs all training images as float64, and one copy, if they do not fit.

    Args:
        what: beginning of the error sentence; `advice`: its end.

    Raises:
        ValueError: with the memory needed and the memory available.
    """
    train = experiment.train
    needed, there = 2 * train.size * math.prod(train.shape) * FLOAT, machine()
    if needed > there:
        raise ValueError(
            f"{what} the {train.size:,} training images would need about {gib(needed)} of memory, "
            f"and this machine has {gib(there)}; {advice}."
        )


def distances_need(experiment, features: int, classes: int) -> tuple[int, int]:
    """Bytes of features with probabilities, and bytes of moments, in a space of this width."""
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
    """Advice if the weights of a network are missing: pixels, if they fit into memory."""
    width = math.prod(experiment.shape)
    if sum(distances_need(experiment, width, 0)) <= machine():
        return "or compare pixels, with --config.eval.features=\"('pixels',)\""
    return "or go without distances, with --config.eval.enable_sampling=False"


def spaces_that_fit() -> str:
    return "features of fewer dimensions, --config.eval.features=\"('inception',)\""


def value_bytes(experiment) -> int:
    """Bytes of one value of a stored sample: float32, or the integer type of its levels."""
    levels = experiment.scaler.levels
    return 4 if levels == 0 else 1 if levels <= 256 else 2


def gib(size: float) -> str:
    """Format bytes in GiB; numbers below 10 have one decimal."""
    value = size / GIB
    return f"{value:,.0f} GiB" if value >= 10 else f"{value:.1f} GiB"
