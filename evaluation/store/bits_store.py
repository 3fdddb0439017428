"""Finished batches of bits/dim on disk, see `batches.py`: one JSON file for each batch and pass."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np

from data import Source
from evaluation.store.batches import Store, digest, network_plan, read_json
from whole_files import put

# For each example: its number, its bits/dim, the standard error over probes, the evaluations of the
# network, and whether the solve failed.
COLUMNS = {
    "index": np.int64,
    "bits_per_dim": np.float64,
    "stderr": np.float64,
    "nfe": np.int64,
    "failed": np.bool_,
}
Rows = dict[str, np.ndarray]


def make_plan(
    experiment, params: Any, source: Source, step: int | None, bound: str = "flow"
) -> dict[str, Any]:
    """The plan: everything on which the bits/dim of `source` depend, in types of JSON."""
    config = experiment.config
    plan = {
        "data": source.fingerprint,
        "split": source.split,
        "size": source.size,
        "levels": source.levels,
        "centered": experiment.bits_scaler.centered,
        "seed": config.eval.seed,
        "batch_size": min(config.eval.batch_size, source.size),
        "passes": config.eval.bpd_repeats,
        "samples": config.eval.bpd_samples,
        "bound": bound,
        **({"elbo_times": config.eval.elbo_times} if bound.startswith("elbo") else {}),
        "likelihood": experiment.settings.likelihood.to_dict(),
    }
    return {**json.loads(json.dumps(plan)), **network_plan(experiment, params, step)}


class BitsStore(Store):
    """Rows by pass and batch."""

    BATCHES = "pass_*_batch_*.json"

    def path(self, repeat: int, batch: int) -> Path:
        return self.folder / f"pass_{repeat}_batch_{batch:05d}.json"

    def save(self, repeat: int, batch: int, rows: Rows) -> None:
        """Write one batch, whole or not at all."""
        content = {"plan": self.plan, **{name: rows[name].tolist() for name in COLUMNS}}
        text = json.dumps({**content, "digest": digest(content)})
        put(self.path(repeat, batch), text + "\n")

    def load(self, repeat: int, batch: int, index: np.ndarray) -> Rows | None:
        """Read the batch of the examples `index`; None if there is no valid file for them."""
        path = self.path(repeat, batch)
        if not path.exists():
            return None
        content = read_json(path)
        said = content.pop("digest", None)
        if said != digest(content) or content["plan"] != self.plan or content["index"] != [*index]:
            self.refuse(path)
            return None
        return {name: np.asarray(content[name], dtype) for name, dtype in COLUMNS.items()}

    def write_table(self, columns: Rows) -> None:
        """Write `<folder>.csv`, one row an example; nine digits of a float determine a float32."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(columns)
        cells = lambda v: [f"{x:.9g}" for x in v] if v.dtype.kind == "f" else v.tolist()
        writer.writerows(zip(*(cells(column) for column in columns.values())))
        put(self.folder.with_name(f"{self.folder.name}.csv"), text.getvalue())
