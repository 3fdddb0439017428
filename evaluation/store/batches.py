"""Finished batches of an evaluation on disk, so that an interrupted evaluation can be resumed.

A folder belongs to one plan: everything on which its values depend, written in `plan.json`. Each
batch is one file, written under another name and then renamed. A file holds the digests of its plan
and of its content. A batch that is incomplete, damaged or of another plan is computed again.
"""

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np

from parallel.processes import is_lead, on_lead
from whole_files import put


@dataclasses.dataclass(frozen=True)
class Store:
    """The batches in `folder` that belong to the plan with digest `plan`; made by `open_store`.

    `BATCHES` is the glob pattern of the names of the files; each subclass has its own.
    """

    folder: Path
    plan: str
    BATCHES = ""

    def refuse(self, path: Path) -> None:
        print(f"{path} is damaged or of another plan; it is computed again.")


S = TypeVar("S", bound=Store)


def open_store(kind: type[S], folder: Path, plan: dict[str, Any]) -> S:
    """Open the store of `plan` in `folder`; finished batches of another plan are deleted.

    A printed line says what was found. Files of other names are left alone. In a job the lead
    prepares the folder first; a process that does not see the lead's folder, because its disk is
    another, prepares its own.
    """
    on_lead(lambda: prepare(kind, folder, plan))
    if not is_lead() and read_json(folder / "plan.json") != plan:
        prepare(kind, folder, plan)
    return kind(folder, digest(plan))


def prepare(kind: type[Store], folder: Path, plan: dict[str, Any]) -> None:
    """Delete batches of another plan, and write this plan to the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for part in folder.glob("*.part"):
        part.unlink()
    finished, there = sorted(folder.glob(kind.BATCHES)), read_json(folder / "plan.json")
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
    # Written last: a process killed before this line leaves the old plan with its other batches.
    put(folder / "plan.json", json.dumps(plan, indent=2) + "\n")


def network_plan(experiment, params: Any, step: int | None) -> dict[str, Any]:
    """The part of a plan on which every value of a network depends, in types of JSON."""
    config = experiment.config
    plan = {
        "step": step,
        "parameters": hash_arrays(params),
        # A law may have read its numbers from a file, which the config only names.
        "law": hash_arrays(experiment.path),
        **{name: config[name].to_dict() for name in ("sde", "model", "prediction")},
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
    """Sixteen hex digits of SHA-256 over the values, names, dtypes and shapes in `tree`."""
    found = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        array = np.asarray(leaf)
        found.update(repr((jax.tree_util.keystr(path), str(array.dtype), array.shape)).encode())
        found.update(array.tobytes())
    return found.hexdigest()[:16]


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hex digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_json(path: Path) -> dict[str, Any]:
    """Read the JSON object in a file; an empty one if there is no file or no valid object."""
    try:
        found = json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def digest(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
