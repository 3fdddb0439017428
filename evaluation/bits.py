"""Bits per dimension over a whole data set, nothing dropped."""

from typing import Any, NamedTuple

import jax
import numpy as np

from data import Source, padded_batches
from likelihood import bits_per_dim
from sde_lib import example_keys, fold_in, split


class DataBits(NamedTuple):
    """Bits/dim of a data set: `mean` and `stderr` over its examples; `per_example` (n,), each the
    mean over its passes; `nfe`, mean evaluations of the network; `failed`, solves that failed."""

    mean: float
    stderr: float
    per_example: np.ndarray
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
        return bits_per_dim(result.logp, dims, log_volume), result.nfe, result.failed

    passes = []
    for repeat in range(config.bpd_repeats):
        rows = []
        for indices, mask in padded_batches(source.size, size):
            raw = source.fetch(indices)
            values = batch_bits(params, raw, indices.astype(np.int32), repeat)
            rows.append([np.asarray(v)[mask] for v in values])
        passes.append([np.concatenate(column) for column in zip(*rows)])
    bits, nfe, failed = (np.stack(column) for column in zip(*passes))
    per_example = bits.mean(axis=0)
    stderr = per_example.std(ddof=1) / len(per_example) ** 0.5
    return DataBits(
        float(per_example.mean()), float(stderr), per_example, float(nfe.mean()), int(failed.sum())
    )
