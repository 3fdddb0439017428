"""The objectives before continuous time: DDPM's and SMLD's, over the levels of a chain.

    loss = E_i E_x0 E_z  |eps(x_i, i) - z|^2,    x_i = a_i x0 + c_i z,    i uniform over N levels

With the chain of VP and an eps network this is `L_simple` of Ho et al. 2020, eq. 14; with that of
VE and a score network it is `sigma_i^2 |s + z / sigma_i|^2` of Song & Ermon 2019, eq. 5 and 6. Both
are the denoising loss with the chain in place of the law.
"""

import jax
import jax.numpy as jnp
from jax import Array

from losses.denoising import Draws, LossFn, NetworkFn, denoising_terms, reduce_terms
from losses.labels import told
from sde_lib import AffinePath
from sde_lib.tables import Tables, make_tables

# The network's label of level i of N: DDPM counts from the least noise, SMLD from the most.
LABELS = {
    "step": lambda i, num_scales: i,
    "level": lambda i, num_scales: num_scales - 1 - i,
}


def discrete_loss(
    path: AffinePath,
    network: NetworkFn,
    kind: str,
    conditioning: str,
    *,
    num_scales: int,
    reduce_mean: bool = True,
    sigma_data: float = 0.5,
) -> LossFn:
    """Denoising over the levels of DDPM and SMLD.

    Returns `(params, others, key, batch) -> (scalar, metrics)`.

    Args:
        path: VP for DDPM, VE for SMLD.
        network: `(params, x, cond, dropout_key) -> F`, in training mode; `cond` is the label,
            `(B,)` float with whole values.
        kind, sigma_data: as in `parametrize`; the original has `eps` for VP and `score` for VE.
        conditioning: a name in `LABELS`; the original has `step` for VP and `level` for VE.
        num_scales: the number of levels N.
        reduce_mean: mean over the dimensions; otherwise half their sum, as in the original.

    `batch["x0"]` holds scaled data `(B, ...)`. The metrics are the loss and the times
    `t = i / (N - 1)`, `(B,)`.

    Raises:
        ValueError: for a law without a chain, for another conditioning, and for the kind
            `velocity`, whose target is a derivative in time.
    """
    tables = make_tables(path, num_scales)
    if conditioning not in LABELS:
        raise ValueError(
            f"prediction.conditioning is {conditioning!r}; a network trained on discrete levels is "
            "told the level: take 'step' (VP) or 'level' (VE)."
        )
    if kind == "velocity":
        raise ValueError(
            "prediction.kind is 'velocity', a derivative in time, which discrete levels do not "
            "have; take 'eps' (VP) or 'score' (VE)."
        )

    def loss(params, others, key: Array, batch: dict[str, Array]):
        del others
        draw_key, dropout_key = jax.random.split(key)
        x0 = batch["x0"]
        draws = draw_levels(tables, draw_key, x0)
        apply = lambda x, level: network(params, x, level, dropout_key, **told(batch))
        terms = level_terms(tables, apply, kind, conditioning, sigma_data, x0, draws)
        value = jnp.mean(reduce_terms(terms, reduce_mean))
        return value, {"loss": value, "t": draws.t / (num_scales - 1)}

    return loss


def draw_levels(tables: Tables, key: Array, x0: Array) -> Draws:
    """Levels, all equally likely, and noise for a batch; `Draws.t` holds the levels."""
    level_key, noise_key = jax.random.split(key)
    i = jax.random.randint(level_key, x0.shape[:1], 0, tables.num_scales)
    return Draws(i, jnp.ones(i.shape), tables.noise(noise_key, x0))


def level_of(n: int, u: Array) -> Array:
    """The level of `u` in [0, 1): level i is the i-th of n equal parts. Uniform u give uniform
    levels, and evenly spread u give evenly spread levels."""
    # In float32 a u close to 1 may be rounded to 1.
    return jnp.minimum((u * n).astype(jnp.int32), n - 1)


def level_terms(
    tables: Tables,
    apply,
    kind: str,
    conditioning: str,
    sigma_data: float,
    x0: Array,
    draws: Draws,
) -> Array:
    """`|eps - z|^2` for each element, shape of `x0`, at the levels `draws.t`."""
    label = LABELS[conditioning]
    labelled = lambda x, i: apply(x, label(i, tables.num_scales))
    return denoising_terms(tables, labelled, kind, "t", "variance", sigma_data, x0, draws)
