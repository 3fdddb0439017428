"""The training loss on held-out data, at times and noises that never change.

Example i always has the same `DRAWS` pairs (t, z), or (level, z) for training on discrete levels.
Two losses therefore differ only because of their parameters. Dropout is off; the weighting is that
of the training loss.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from data import padded_batches
from data.order import permutation
from losses.denoising import Draws, denoising_loss, denoising_terms, reduce_terms
from losses.discrete import level_of, level_terms
from losses.noise_level import level_nats
from losses.time_sampling import TIME_SAMPLING
from parallel.mesh import by_device
from parallel.processes import each
from sde_lib import example_keys, fold_in, split
from sde_lib.classifier import log_prob
from sde_lib.tables import make_tables

DRAWS = 8
DENOISING = denoising_loss.__kwdefaults__


def make_eval_loss(experiment, most: int = 0) -> Callable[[Any], float]:
    """`params -> mean loss over the test split`; the last batch is padded, no example is dropped.

    The processes of a job share the batches, with parameters on the devices of each.

    Args:
        most: the largest number of examples. If the split has more, the mean is over a fixed subset
            of this size, chosen by a permutation that depends on `config.seed`. 0 takes all.
    """
    config, source = experiment.config, experiment.test
    numbers = chosen(source.size, most, config.seed)
    batch_size = min(config.eval.batch_size, len(numbers))

    def losses_of(params, raw, indices, label):
        keys = example_keys(0, indices)
        # Draws are computed one after another, so that the network is compiled once, not DRAWS
        # times.
        losses = jax.lax.map(
            lambda k: example_losses(experiment, params, raw, fold_in(keys, k), k, label),
            jnp.arange(DRAWS),
        )
        return jnp.mean(losses, axis=0)

    run, batches = by_device(losses_of, shared=1), list(padded_batches(len(numbers), batch_size))

    def batch_sum(params, places, mask) -> np.ndarray:
        indices = numbers[places]
        label = source.labels[indices] if experiment.num_classes else None
        found = run(params, source.fetch(indices), indices.astype(np.int32), label)
        return np.sum(np.asarray(found, np.float64)[mask])

    def eval_loss(params) -> float:
        sums = each(len(batches), lambda i: {"sum": batch_sum(params, *batches[i])})
        return float(sum(part["sum"] for part in sums)) / len(numbers)

    return eval_loss


def chosen(size: int, most: int, seed: int) -> np.ndarray:
    """The sorted numbers of all examples, or of `most` of them; a larger set contains a smaller."""
    return np.sort(permutation(seed, 0, size)[: most or size])


def example_losses(experiment, params, raw, keys, k: jax.Array, label: jax.Array | None = None):
    """Losses `(B,)` of draw k of each example, whose u lies in the k-th of DRAWS equal cells.

    `u` in [0, 1) determines the time or level. A network that is conditioned on classes gets the
    label of every example. The loss of a classifier is `-log p(label)`, in nats.
    """
    config, path = experiment.config, experiment.path
    data_keys, time_keys, noise_keys = split(keys, 3)
    x0 = experiment.scaler.to_model(data_keys, raw)
    u = (k + jax.vmap(jax.random.uniform)(time_keys)) / DRAWS
    z = path.noise(noise_keys, x0)
    if experiment.levels is not None:
        levels = experiment.levels
        logits = lambda y: experiment.model.apply({"params": params}, y)
        return level_nats(levels, logits, x0, level_of(len(levels.t), u), z)
    known = {} if label is None else {"label": label}
    apply = lambda x, cond: experiment.model.apply({"params": params}, x, cond, **known)
    meaning = config.prediction.to_dict()
    # A loss without some keys of the denoising loss is evaluated with the defaults of these keys.
    own = {**DENOISING, **config.loss.get(config.loss.name, {})}
    if not config.training.continuous:
        tables = make_tables(path, config.model.num_scales)
        draws = Draws(level_of(tables.num_scales, u), jnp.ones_like(u), z)
        terms = level_terms(tables, apply, x0=x0, draws=draws, **meaning)
        return reduce_terms(terms, own["reduce_mean"])
    t, weight = TIME_SAMPLING[own["time_sampling"]](path, u)
    if experiment.logits is not None:
        return -log_prob(experiment.logits(params), path.marginal(x0, z, t), t, label)
    draws, weighting = Draws(t, weight, z), own["weighting"]
    terms = denoising_terms(path, apply, weighting=weighting, x0=x0, draws=draws, **meaning)
    return reduce_terms(terms, own["reduce_mean"]) * weight
