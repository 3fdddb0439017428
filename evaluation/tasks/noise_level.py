"""Accuracy of a network that estimates the noise level, on the test split."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from losses.noise_level import level_nats

MOST = 1000  # examples


class HeldOut(NamedTuple):
    """Cross-entropy of the level in nats, the cross-entropy of a uniform guess, and the RMS error
    of log sigma of the most probable level."""

    cross_entropy: float
    uniform: float
    log_sigma_error: float


def make_held_out(experiment, rounds: int = 4) -> Callable[[Any], HeldOut]:
    """`params -> HeldOut` over the first 1000 test examples at most.

    Each example is seen at `rounds` levels, which together are spread evenly over all levels.
    """
    levels, source = experiment.levels, experiment.test
    number, count = min(source.size, MOST), len(levels.t)
    raw = jnp.asarray(source.fetch(np.arange(number)))
    shifts = np.arange(rounds) * count // (rounds * number)

    @jax.jit
    def measure(params, raw, key, shift):
        data_key, noise_key = jax.random.split(key)
        x0 = experiment.scaler.to_model(data_key, raw)
        k = (jnp.arange(number) * count // number + shift) % count
        told = []

        def logits(y):
            told.append(experiment.model.apply({"params": params}, y))
            return told[0]

        nats = level_nats(levels, logits, x0, k, jax.random.normal(noise_key, x0.shape))
        error = jnp.log(levels.sigma[jnp.argmax(told[0], axis=-1)] / levels.sigma[k])
        return jnp.mean(nats), jnp.mean(error**2)

    def held_out(params: Any) -> HeldOut:
        found = [measure(params, raw, jax.random.key(i), int(s)) for i, s in enumerate(shifts)]
        nats, square = np.mean(np.asarray(found, np.float64), axis=0)
        return HeldOut(float(nats), float(np.log(count)), float(square**0.5))

    return held_out
