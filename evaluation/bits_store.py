"""Finished batches of bits/dim on disk, so that an evaluation that was killed goes on.

A folder belongs to one plan, all that its values depend on, which `plan.json` tells. Each batch of
each pass is one file, written under another name and then renamed. A file holds the digest of its
plan and that of its content: what is half-written, damaged or of another plan is computed again.
"""

import csv
import dataclasses
import hashlib
import io
import json
import os
from pathlib import Path
from typing import Any

import jax
import numpy as np

from data import Source

# Per example: its number, its value, the error of that value over probes, evaluations, failure.
COLUMNS = {
    "index": np.int64,
    "bits_per_dim": np.float64,
    "stderr": np.float64,
    "nfe": np.int64,
    "failed": np.bool_,
}
Rows = dict[str, np.ndarray]
BATCHES = "pass_*_batch_*.json"


def make_plan(
    experiment, params: Any, source: Source, step: int | None, bound: str = "flow"
) -> dict[str, Any]:
    """All that the bits/dim of `source` depend on, as JSON has it."""
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
        "step": step,
        "parameters": hash_arrays(params),
        # A law may have read its numbers from a file.
        "law": hash_arrays(experiment.path),
        **{name: config[name].to_dict() for name in ("sde", "model", "prediction", "likelihood")},
        "jax": {
            "version": jax.__version__,
            "backend": jax.default_backend(),
            "x64": jax.config.jax_enable_x64,
            "prng": jax.config.jax_default_prng_impl,
            "matmul": jax.config.jax_default_matmul_precision,
        },
    }
    return json.loads(json.dumps(plan))


def hash_arrays(tree: Any) -> str:
    """Sixteen hex digits that change with any number in `tree`, its name, dtype or shape."""
    found = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        array = np.asarray(leaf)
        found.update(repr((jax.tree_util.keystr(path), str(array.dtype), array.shape)).encode())
        found.update(array.tobytes())
    return found.hexdigest()[:16]


@dataclasses.dataclass(frozen=True)
class BitsStore:
    """The batches in `folder` of the plan whose digest is `plan`; `open_store` makes one."""

    folder: Path
    plan: str

    def path(self, repeat: int, batch: int) -> Path:
        return self.folder / f"pass_{repeat}_batch_{batch:05d}.json"

    def save(self, repeat: int, batch: int, rows: Rows) -> None:
        """Writes one batch, whole or not at all."""
        content = {"plan": self.plan, **{name: rows[name].tolist() for name in COLUMNS}}
        text = json.dumps({**content, "digest": digest(content)})
        self.put(self.path(repeat, batch), text + "\n")

    def put(self, path: Path, text: str) -> None:
        """Writes a file that at any moment is the old one or the new one."""
        part = self.folder / f"{path.name}.{os.getpid()}.part"
        part.write_text(text)
        os.replace(part, path)

    def load(self, repeat: int, batch: int, index: np.ndarray) -> Rows | None:
        """The batch of the examples `index`; None where there is none that can be trusted."""
        path = self.path(repeat, batch)
        if not path.exists():
            return None
        content = read_json(path)
        said = content.pop("digest", None)
        if said != digest(content) or content["plan"] != self.plan or content["index"] != [*index]:
            print(f"{path} is damaged or of another plan; it is computed again.")
            return None
        return {name: np.asarray(content[name], dtype) for name, dtype in COLUMNS.items()}

    def write_table(self, columns: Rows) -> None:
        """Writes `<folder>.csv`, one row an example; floats have nine digits, as float32 has."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(columns)
        cells = lambda v: [f"{x:.9g}" for x in v] if v.dtype.kind == "f" else v.tolist()
        writer.writerows(zip(*(cells(column) for column in columns.values())))
        self.put(self.folder.with_name(f"{self.folder.name}.csv"), text.getvalue())


def open_store(folder: Path, plan: dict[str, Any]) -> BitsStore:
    """The store of `plan` in `folder`; finished batches of another plan are deleted.

    Says in one line what it found. Files of other names are left alone.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for part in folder.glob("*.part"):
        part.unlink()
    finished, there = sorted(folder.glob(BATCHES)), read_json(folder / "plan.json")
    if there and digest(there) != digest(plan):
        keys = (key for key in there.keys() | plan.keys() if there.get(key) != plan.get(key))
        print(
            f"{folder} is of another plan (other: {', '.join(sorted(keys))}); its {len(finished)} "
            "finished batches are discarded."
        )
        for path in finished:
            path.unlink()
    elif finished:
        print(f"{folder} has {len(finished)} finished batches; the others are computed.")
    # After the old batches are gone: a kill in between leaves the old plan with what is left of it.
    store = BitsStore(folder, digest(plan))
    store.put(folder / "plan.json", json.dumps(plan, indent=2) + "\n")
    return store


def read_json(path: Path) -> dict[str, Any]:
    """The object in a file; an empty one where there is no file or no whole object."""
    try:
        found = json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def digest(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
