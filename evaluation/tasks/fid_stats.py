"""`--mode fid_stats`: the moments of the training data in each feature space, written once."""

from pathlib import Path

import jax
import numpy as np

from evaluation.metrics.frechet import Moments, merge_all
from evaluation.metrics.statistics import stream, write_statistics
from evaluation.report.images import Images, of_source
from evaluation.spaces.features import FeatureSpace
from evaluation.spaces.judges import judges
from evaluation.store.memory import check_moments
from parallel.processes import each, is_lead


def write_fid_stats(experiment, workdir: Path) -> list[Path]:
    """Write `stats/<data>_<space>.npz` for each feature space, and return the paths.

    Each file has `mu`, `sigma`, `n`, `space` and `fingerprint`. Only the lead of a job writes; the
    other processes return an empty list.

    Raises:
        ValueError, FileNotFoundError: as `judges` and `check_moments`.
    """
    folder = workdir / "stats"
    written = []
    chosen = judges(experiment)
    for judge in chosen:
        check_moments(judge.widths[0])
    for space, *_ in chosen:
        moments = shared_stream(space, of_source(experiment.train))
        if not is_lead():
            continue
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{experiment.train.name.replace('/', '-')}_{space.name}.npz"
        write_statistics(path, moments, experiment.train.fingerprint)
        written.append(path)
    return written


def shared_stream(space: FeatureSpace, images: Images) -> Moments:
    """Moments of all images; of P processes in a job, each streams every P-th batch."""
    processes = jax.process_count()

    def part(first: int) -> dict[str, np.ndarray]:
        moments = stream(space, (images.batch(i) for i in range(first, images.count(), processes)))
        return {"n": moments.n, "mean": moments.mean, "scatter": moments.scatter}

    parts = each(min(processes, images.count()), part)
    return merge_all([Moments(space.id, int(p["n"]), p["mean"], p["scatter"]) for p in parts])
