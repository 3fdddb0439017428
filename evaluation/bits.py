"""Bits per dimension over a whole data set, nothing dropped."""

from typing import Any, NamedTuple

import jax
import numpy as np

from data import Source, padded_batches
from likelihood import bits_per_dim
from sde_lib import example_keys, fold_in, split


class DataBits(NamedTuple):
    """Bits/dim of a data set: `mean` and `stderr` over its examples; `per_example` (n,), each the
    mean over its passes; `probe_stderr`, the part of `stderr` that more probes would take away (nan
    for a single probe); `nfe`, mean evaluations of the network; `failed`, solves that failed."""

    mean: float
    stderr: float
    per_example: np.ndarray
    probe_stderr: float
    nfe: float
    failed: int


def data_bits(experiment, params: Any, source: Source) -> DataBits:
    """Mean bits/dim over all examples of `source`, uniformly dequantised.

    Each of `eval.bpd_repeats` passes has fresh dequantisation noise and fresh probes, which belong
    to the example and the pass: the value of an example does not depend on its batch.

    Raises:
        ValueError: where the data are continuous, so that bits/dim does not exist.
    """
    config = experiment.config.eval
    log_volume = experiment.bits_scaler.log_volume()
    dims, size = int(np.prod(experiment.shape)), min(config.batch_size, source.size)

    @jax.jit
    def batch_bits(params, raw, indices, repeat):
        noise_keys, probe_keys = split(fold_in(example_keys(config.seed, indices), repeat), 2)
        x = experiment.bits_scaler.to_model(noise_keys, raw)
        result = experiment.log_likelihood(probe_keys, experiment.predict(params), x)
        bits = bits_per_dim(result.logp, dims, log_volume)
        return bits, result.stderr / (dims * np.log(2.0)), result.nfe, result.failed

    passes = []
    for repeat in range(config.bpd_repeats):
        rows = []
        for indices, mask in padded_batches(source.size, size):
            raw = source.fetch(indices)
            values = batch_bits(params, raw, indices.astype(np.int32), repeat)
            rows.append([np.asarray(v)[mask] for v in values])
        passes.append([np.concatenate(column) for column in zip(*rows)])
    bits, probe, nfe, failed = (np.stack(column) for column in zip(*passes))
    per_example = bits.mean(axis=0)
    stderr = per_example.std(ddof=1) / len(per_example) ** 0.5
    return DataBits(
        mean=float(per_example.mean()),
        stderr=float(stderr),
        per_example=per_example,
        probe_stderr=float(np.sqrt(np.sum(probe**2)) / probe.size),
        nfe=float(nfe.mean()),
        failed=int(failed.sum()),
    )
