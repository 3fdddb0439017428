"""Finished batches of samples on disk, see `batches.py`: one npz file for each batch.

Sample i depends on its number i, not on the number of samples. A run with a larger
`eval.num_samples` therefore continues from the batches of a smaller one.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.metrics.statistics import read
from evaluation.store.batches import Store, hash_arrays, network_plan
from whole_files import put_arrays

# Arrays of a batch, each (B, ...): numbers of the samples; samples in levels (continuous ones
# unchanged); evaluations of the network; whether the sample failed.
ARRAYS = ("index", "x", "nfe", "failed")
Batch = dict[str, np.ndarray]


def make_plan(experiment, params: Any, step: int | None) -> dict[str, Any]:
    """The plan: everything on which a sample depends besides its number, in types of JSON."""
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
    if experiment.recipe is not None:
        plan["recipe"] = experiment.recipe._asdict()
    return {**json.loads(json.dumps(plan)), **network_plan(experiment, params, step)}


class SampleStore(Store):
    """Samples by batch."""

    BATCHES = "batch_*.npz"

    def path(self, batch: int) -> Path:
        return self.folder / f"batch_{batch:05d}.npz"

    def save(self, batch: int, arrays: Batch) -> None:
        """Write one batch, whole or not at all."""
        put_arrays(self.path(batch), plan=self.plan, digest=digest_of(arrays), **arrays)

    def load(self, batch: int, index: np.ndarray) -> Batch | None:
        """Read the batch of the samples `index`; None if there is no valid file for them."""
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
        # The last batch of a run with fewer samples is shorter; it is valid, but not the batch
        # `index`, and it is replaced without a message.
        return arrays if np.array_equal(arrays["index"], index) else None


def digest_of(arrays: Batch) -> str:
    found = hashlib.sha256()
    for name in ARRAYS:
        array = np.ascontiguousarray(arrays[name])
        found.update(repr((name, str(array.dtype), array.shape)).encode())
        found.update(array.tobytes())
    return found.hexdigest()
