"""Bits per dimension over a whole data set; every example counts exactly once."""

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

    Fields:
        mean, stderr: mean over the `n` examples that have a value, and its standard error.
        per_example: (size,), the mean over the passes of each example; nan if all passes failed.
        probe_stderr: the part of `stderr` that comes from the random probes of the divergence and
            falls with their number; nan for a single probe.
        nfe: mean number of evaluations of the network for one example in one pass.
        failed: number of failed likelihoods, over all examples and passes.
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

    Each of `eval.bpd_repeats` passes has fresh noise and fresh probes. Their keys depend on the
    example and the pass alone, so the value of an example does not depend on its batch. The
    processes of a job share the batches.

    Args:
        folder: folder of finished batches, which are read again, see `evaluation/store`. At the end
            a table with the values of all examples is written beside it, as `<folder>.csv`.
        step: of the checkpoint, for the plan.
        bound: a name in `BOUNDS`.
        batch_bits: the result of `make_batch_bits` for this bound, to share among checkpoints.

    Raises:
        ValueError: the data are continuous, so that bits/dim does not exist, or every likelihood
            failed.
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
    """Average columns `(passes, n)` over the passes that did not fail: columns `(n,)`.

    `stderr` is the standard error over passes, which contains the spread over probes. An example
    with a single value has the standard error over its probes.
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
    """Summarise the columns of `over_passes`, without the examples that have no value."""
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
