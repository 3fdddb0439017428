"""`--mode fid_stats`: the moments of the training data in each feature space, written once."""

from pathlib import Path

import numpy as np

from evaluation.compare import features, spaces_for, unit_images
from evaluation.frechet import Moments


def write_fid_stats(experiment, workdir: Path) -> list[Path]:
    """Writes `stats/<data>_<space>.npz` with `mu`, `sigma`, `n`, `space` and the fingerprint."""
    folder = workdir / "stats"
    unit, written = unit_images(experiment.train), []
    for space, _ in spaces_for(experiment, unit):
        moments = Moments.of(features(space, unit))
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{experiment.train.name.replace('/', '-')}_{space.name}.npz"
        np.savez(
            path,
            mu=moments.mean,
            sigma=moments.cov,
            n=moments.n,
            space=space.id,
            fingerprint=experiment.train.fingerprint,
        )
        written.append(path)
    return written
