"""Bits per dimension over a whole data set: no example dropped, none counted twice."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data import Source, padded_batches
from evaluation.store.batches import open_store
from evaluation.store.bits_store import COLUMNS, BitsStore, Rows, make_plan
from evaluation.tasks.bounds import make_batch_bits
from evaluation.tasks.codes import mend
from parallel.processes import each, is_lead


class DataBits(NamedTuple):
    """Bits/dim of a data set.

    `mean` and `stderr` over the `n` examples that have a value; `per_example` (size,), each the
    mean over its passes, nan where none of them arrived; `probe_stderr`, the part of `stderr` that
    more probes would take away (nan for a single probe); `nfe`, mean evaluations of the network for
    an example in a pass; `failed`, likelihoods of an example in a pass that have no value.
    """

    mean: float
    stderr: float
    per_example: np.ndarray
    probe_stderr: float
    nfe: float
    failed: int
    n: int


def data_bits(
    experiment,
    params: Any,
    source: Source,
    folder: Path | None = None,
    step: int | None = None,
    bound: str = "flow",
    batch_bits: Callable | None = None,
) -> DataBits:
    """Mean bits/dim over all examples of `source`, by a bound of `evaluation/tasks/bounds.py`.

    Each of `eval.bpd_repeats` passes has fresh noise and fresh probes, which belong to the example
    and the pass: the value of an example does not depend on its batch. The processes of a job
    share the batches.

    Args:
        folder: where finished batches are kept and found again, see `store`. At the end the
            values of the examples are written beside it, in a table of the same name.
        step: of the checkpoint, for the plan.
        bound: a name in `BOUNDS`.
        batch_bits: what `make_batch_bits` returns for it, made once for several checkpoints.

    Raises:
        ValueError: where the data are continuous, so that bits/dim does not exist, or where no
            likelihood arrived.
    """
    config, size = experiment.config, min(experiment.config.eval.batch_size, source.size)
    batch_bits = batch_bits or make_batch_bits(experiment, bound)
    plan = lambda: make_plan(experiment, params, source, step, bound)
    store = open_store(BitsStore, folder, plan()) if folder else None

    def rows_of(repeat: int, batch: int, indices: np.ndarray, mask: np.ndarray) -> Rows:
        if store and (rows := store.load(repeat, batch, indices[mask])):
            return rows
        values = batch_bits(params, repeat, source.fetch(indices), indices.astype(np.int32))
        columns = zip(COLUMNS.items(), (indices, *values))
        rows = {name: np.asarray(value)[mask].astype(dtype) for (name, dtype), value in columns}
        if store:
            store.save(repeat, batch, rows)
        return rows

    passes, batches = [], list(padded_batches(source.size, size))
    for repeat in range(config.eval.bpd_repeats):
        one = lambda batch, repeat=repeat: rows_of(repeat, batch, *batches[batch])
        rows = each(len(batches), one)
        passes.append({name: np.concatenate([r[name] for r in rows]) for name in COLUMNS})
    examples = over_passes({name: np.stack([p[name] for p in passes]) for name in COLUMNS})
    if not np.isfinite(examples["bits_per_dim"]).any():
        raise ValueError(
            f"Every likelihood of {source.size} examples failed, so there is no bits/dim; "
            f"{mend(config.likelihood)}."
        )
    if store and is_lead():
        store.write_table(table(examples, source))
    return over_examples(examples)


def over_passes(values: Rows) -> Rows:
    """Columns `(passes, n)` to those of the table, `(n,)`; what failed has no part in them.

    `stderr` is that over passes, which holds the spread over probes, or for an example with one
    value that over its probes.
    """
    kept = ~values["failed"]
    count = kept.sum(axis=0)
    total = lambda v: np.where(kept, v, 0.0).sum(axis=0)
    per = lambda v, n: np.divide(v, n, out=np.full(len(n), np.nan), where=n > 0)
    bits = per(total(values["bits_per_dim"]), count)
    spread = per(total((values["bits_per_dim"] - bits) ** 2), (count - 1) * count) ** 0.5
    probes = per(total(values["stderr"] ** 2) ** 0.5, count)
    return {
        "index": values["index"][0],
        "bits_per_dim": bits,
        "stderr": np.where(count > 1, spread, probes),
        "probe_stderr": probes,
        "nfe": values["nfe"].mean(axis=0),
        "failed": np.sum(~kept, axis=0),
    }


def over_examples(examples: Rows) -> DataBits:
    """The summary of what `over_passes` returns; an example without a value has no part in it."""
    kept = np.isfinite(examples["bits_per_dim"])
    bits, n = examples["bits_per_dim"][kept], int(kept.sum())
    return DataBits(
        mean=float(bits.mean()),
        stderr=float(bits.std(ddof=1) / n**0.5) if n > 1 else np.nan,
        per_example=examples["bits_per_dim"],
        probe_stderr=float(np.sum(examples["probe_stderr"][kept] ** 2) ** 0.5 / n),
        nfe=float(examples["nfe"].mean()),
        failed=int(examples["failed"].sum()),
        n=n,
    )


def table(examples: Rows, source: Source) -> Rows:
    """The columns of the CSV file."""
    names = ("bits_per_dim", "stderr", "nfe", "failed")
    label = {} if source.labels is None else {"label": source.labels}
    return {"index": examples["index"], **label, **{name: examples[name] for name in names}}
