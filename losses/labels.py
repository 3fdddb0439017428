"""Random dropping of classes, so that one network learns to predict without a class too (Ho and
Salimans 2022, https://arxiv.org/abs/2207.12598, algorithm 1)."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array


def drop_labels(key: Array, label: Array, num_classes: int, rate: float) -> Array:
    """Classes `(B,)`, each replaced by `num_classes`, no class, with probability `rate`."""
    left_out = jax.random.bernoulli(key, rate, label.shape)
    return jnp.where(left_out, num_classes, label)


def told(batch: dict[str, Array]) -> dict[str, Any]:
    """Further keyword arguments of the network: `label`, if the batch has classes."""
    return {"label": batch["cond"]} if "cond" in batch else {}
