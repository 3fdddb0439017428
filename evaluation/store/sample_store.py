"""Finished batches of samples on disk: see `batches.py`. One npz file a batch.

Sample i depends on its number and not on how many there are, so a larger `eval.num_samples` goes on
from the batches of a smaller one.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.metrics.statistics import read
from evaluation.store.batches import Store, hash_arrays, network_plan
from whole_files import put_arrays

# Arrays of a batch: numbers, samples in levels or as they are, evaluations, failure; each (B, ...).
ARRAYS = ("index", "x", "nfe", "failed")
Batch = dict[str, np.ndarray]


def make_plan(experiment, params: Any, step: int | None) -> dict[str, Any]:
    """All that a sample depends on besides its number, as JSON has it."""
    config, classes = experiment.config, experiment.classes
    plan = {
        "data": experiment.train.fingerprint,
        "levels": experiment.scaler.levels,
        "centered": experiment.scaler.centered,
        "dequantize": experiment.scaler.dequantize,
        "seed": config.eval.seed,
        "sampling": experiment.settings.sampling.to_dict(),
        "guidance": experiment.settings.guidance.to_dict(),
        "guide": None if classes is None or classes.own is None else hash_arrays(classes.own),
    }
    return {**json.loads(json.dumps(plan)), **network_plan(experiment, params, step)}


class SampleStore(Store):
    """Samples by batch."""

    BATCHES = "batch_*.npz"

    def path(self, batch: int) -> Path:
        return self.folder / f"batch_{batch:05d}.npz"

    def save(self, batch: int, arrays: Batch) -> None:
        """Writes one batch, whole or not at all."""
        put_arrays(self.path(batch), plan=self.plan, digest=digest_of(arrays), **arrays)

    def load(self, batch: int, index: np.ndarray) -> Batch | None:
        """The batch of the samples `index`; None where there is none that can be trusted."""
        path = self.path(batch)
        if not path.exists():
            return None
        try:
            stored = read(path, (*ARRAYS, "plan", "digest"))
            arrays = {name: stored[name] for name in ARRAYS}
            plan, said = str(stored["plan"]), str(stored["digest"])
        except (ValueError, KeyError):
            arrays = {}
        if not arrays or plan != self.plan or said != digest_of(arrays):
            self.refuse(path)
            return None
        # The last batch of fewer samples: it was whole then.
        return arrays if np.array_equal(arrays["index"], index) else None


def digest_of(arrays: Batch) -> str:
    found = hashlib.sha256()
    for name in ARRAYS:
        array = np.ascontiguousarray(arrays[name])
        found.update(repr((name, str(array.dtype), array.shape)).encode())
        found.update(array.tobytes())
    return found.hexdigest()
