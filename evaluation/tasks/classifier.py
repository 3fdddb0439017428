"""Accuracy of a classifier of noisy states, at several noise levels."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from data import padded_batches
from parallel.mesh import by_device
from parallel.processes import each
from sde_lib import example_keys, fold_in, split
from sde_lib.classifier import log_prob

# Noise levels sigma = c / a; levels outside the range of the law are left out.
LEVELS = (0.01, 0.1, 0.3, 1.0, 3.0, 10.0)


class AtLevel(NamedTuple):
    """Results over a split at one noise level.

    `accuracy`: share of examples that are classified correctly; `stderr`: its standard error.
    `cross_entropy`: mean of `-log p(class)` in nats; a uniform guess has `log(number of classes)`.
    """

    sigma: float
    accuracy: float
    stderr: float
    cross_entropy: float


def make_by_level(experiment, source, seed: int) -> Callable[[Any], list[AtLevel]]:
    """`params -> [AtLevel]`, one for each noise level that the law reaches.

    Every example of `source` is classified once at each level, with noise that depends on `seed`
    and the number of the example. The processes of a job share the batches.
    """
    path, size = experiment.path, min(experiment.config.eval.batch_size, source.size)
    ends = jnp.asarray([path.t0, path.t1])
    low, high = np.exp(-np.asarray(path.lam(ends)))

    def batch(params, t, raw, label, indices):
        data_keys, noise_keys = split(fold_in(example_keys(seed, indices), 1), 2)
        x0 = experiment.scaler.to_model(data_keys, raw)
        x = path.marginal(x0, path.noise(noise_keys, x0), t)
        logits = experiment.logits(params)(x, t)
        return jnp.argmax(logits, axis=-1) == label, -log_prob(lambda x, t: logits, x, t, label)

    run, batches = by_device(batch, shared=2), list(padded_batches(source.size, size))

    def at_level(params: Any, sigma: float) -> AtLevel:
        t = path.t_of_sigma(jnp.asarray(sigma))

        def told(i: int) -> dict[str, np.ndarray]:
            indices, mask = batches[i]
            given = source.fetch(indices), source.labels[indices], indices.astype(np.int32)
            right, nats = run(params, t, *given)
            return {"right": np.asarray(right)[mask], "nats": np.asarray(nats)[mask]}

        parts = each(len(batches), told)
        right, nats = (np.concatenate([part[k] for part in parts]) for k in ("right", "nats"))
        share = float(right.mean())
        error = (share * (1.0 - share) / source.size) ** 0.5
        return AtLevel(sigma, share, error, float(nats.mean()))

    reached = [sigma for sigma in LEVELS if low <= sigma <= high]
    return lambda params: [at_level(params, sigma) for sigma in reached]
