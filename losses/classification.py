"""How a classifier of noisy states is trained: cross-entropy of the class over all noise levels.

    loss = E_t E_(x0, y) E_z  -log q(y | x_t, t),      x_t = a x0 + c z

The minimiser is p(y | x_t) of the data (Song et al. 2021, appendix I.1; Dhariwal and Nichol 2021,
section 4.1). The gradient of its logarithm in x_t guides a score.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from losses.denoising import LossFn, NetworkFn, draw
from losses.needs import needs
from losses.time_sampling import TIME_SAMPLING
from sde_lib import AffinePath
from sde_lib.classifier import log_prob, make_logits
from sde_lib.ranges import one_of


@needs(trains="classifiers")
def classification_loss(
    path: AffinePath,
    network: NetworkFn,
    *,
    time_sampling: str = "uniform_lam",
    stratify: bool = False,
    sigma_data: float = 0.5,
) -> LossFn:
    """Cross-entropy of classes of noisy states, in nats.

    Returns `(params, others, key, batch) -> (scalar, metrics)`.

    Args:
        network: `(params, x, sigma, dropout_key) -> logits (B, K)`, in training mode.
        time_sampling: a name in `TIME_SAMPLING`. Its importance weights are not applied: the
            classifier should be good at the times that are drawn.
        stratify: spread the times of a batch evenly.
        sigma_data: as in `make_logits`.

    `batch["x0"]` holds scaled data `(B, ...)` and `batch["cond"]` classes `(B,)`. The metrics
    are the loss, the share of classes that are predicted right, and the times.

    Raises:
        ValueError: for an unknown time sampling.
    """
    one_of(tuple(TIME_SAMPLING), time_sampling=time_sampling)

    def loss(params, others: Any, key: Array, batch: dict[str, Array]):
        del others
        draw_key, dropout_key = jax.random.split(key)
        x0, label = batch["x0"], batch["cond"]
        t, _, z = draw(path, draw_key, x0, time_sampling, stratify)
        logits = make_logits(path, lambda x, s: network(params, x, s, dropout_key), sigma_data)
        x = path.marginal(x0, z, t)
        found = logits(x, t)
        value = -jnp.mean(log_prob(lambda x, t: found, x, t, label))
        right = jnp.mean(jnp.argmax(found, axis=-1) == label)
        return value, {"loss": value, "t": t, "accuracy": right}

    return loss
