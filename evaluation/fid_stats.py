"""`--mode fid_stats`: the moments of the training data in each feature space, written once."""

from pathlib import Path

from evaluation.compare import judges
from evaluation.images import of_source
from evaluation.statistics import stream, write_statistics


def write_fid_stats(experiment, workdir: Path) -> list[Path]:
    """Writes `stats/<data>_<space>.npz` with `mu`, `sigma`, `n`, `space` and the fingerprint."""
    folder = workdir / "stats"
    written = []
    for space, *_ in judges(experiment):
        moments = stream(space, of_source(experiment.train).batches())
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{experiment.train.name.replace('/', '-')}_{space.name}.npz"
        write_statistics(path, moments, experiment.train.fingerprint)
        written.append(path)
    return written
