r"""The variational bound of log p in continuous time, without a solve.

The model runs the reverse SDE from the prior at t1 to x_eps and decodes it. With lam = log(a / c),
half the log signal-to-noise ratio, and z the noise of x_t = a x + c z,

    log p(x) >= E log p(x | x_eps) - int_{lam(t1)}^{lam(eps)} E |z - eps(x_t, t)|^2 dlam
                - KL( N(a x, c^2 I) at t1 || prior )

(Kingma et al. 2021, Variational Diffusion Models, https://arxiv.org/abs/2107.00630, sections 3.5
and 5; Song, Durkan, Murray, Ermon 2021, https://arxiv.org/abs/2101.09258, theorem 3). VDM's factor
1/2 belongs to the full log-SNR, 2 lam. The integral depends on the law only through its ends: from
s to t < s the two reverse kernels are Gaussians of the same variance, whose means differ by the
error of the prediction. Their divergence is `(SNR_t - SNR_s) / 2 |x - x0|^2`, which tends to `|z -
eps|^2 dlam` as t tends to s.

For the exact eps of some data the bound equals the quantity of `decoder.py`,
`E_z log p_eps(a x + c z) + E_z [log p(x | x_eps) - log q(x_eps | x)]`, plus the error of the prior,
`E_z log(prior / p_t1)`. For a trained eps the two differ, because the SDE and the flow are then
different models. This bound is rigorous for the SDE.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from likelihood.decoder import check_levels, expected_log_decoder, start
from sde_lib import AffinePath, fold_in, normal_like, split, total
from sde_lib.prediction import Cond, PredictFn, bound


class Elbo(NamedTuple):
    """Per example, `(B,)`, in nats, summed over dimensions.

    `logp = reconstruction - diffusion - prior` is an unbiased estimate of the bound. `stderr` is
    its standard error over times and noise, from `num_times / 2` degrees of freedom; its square is
    unbiased. `reconstruction`, `diffusion` and `prior` are the terms of the bound, of which only
    `diffusion` is sampled. `nfe`: evaluations of the network.
    """

    logp: Array
    stderr: Array
    reconstruction: Array
    diffusion: Array
    prior: Array
    nfe: Array


def elbo_continuous(
    key: Array,
    path: AffinePath,
    predict: PredictFn,
    x: Array,
    *,
    num_times: int = 64,
    eps: float | None = None,
    cond: Cond = None,
) -> Elbo:
    """Bound of the log density of continuous `x` `(B, ...)`, in nats.

    The decoder is `N(x; x_eps / a, (c / a)^2 I)`, whose term is analytic:
    `E log p(x | x_eps) = -D/2 log(2 pi e) + D lam(eps)`.

    Args:
        key: one key, or one per example. predict: `(x, t, cond=None) -> Prediction`; only its `eps`
        is used. num_times: the number of times of each example, even; see `diffusion_loss`. eps:
        the time at which the reverse SDE stops; the law's `t0` if not given. In float32 c(eps) must
        stay
            well above the rounding of a x, 1e-7 of it.
        cond: the condition of each example; the result then bounds `log p(x | cond)`.

    Raises:
        ValueError: for a number of times that is odd or below 2.
    """
    time, dims = start(path, eps, x), x[0].size
    closing = dims * (path.lam(time) - 0.5 * jnp.log(2.0 * jnp.pi) - 0.5)
    return added_up(
        key, path, bound(predict, cond), x, time, num_times, jnp.full(x.shape[:1], closing)
    )


def elbo_discrete(
    key: Array,
    path: AffinePath,
    predict: PredictFn,
    values: Array,
    u: Array,
    *,
    num_times: int = 64,
    eps: float | None = None,
    cond: Cond = None,
) -> Elbo:
    """Bound of the log probability of levels `u` `(B, ...)`, integers 0 to L - 1, in nats.

    The decoder is that of `log_decoder`, its term exact by `expected_log_decoder`. Divided by
    `-D log 2` it is bits/dim, with no dequantisation and no offset.

    Args:
        values: `(L,)`, the levels in model units, see `log_decoder`. Others as in
            `elbo_continuous`.

    Raises:
        ValueError: where u is not of integers or values are not `(L,)`, and for a number of times
            that is odd or below 2.
    """
    check_levels(values, u)
    index = u.astype(jnp.int32)
    x = jnp.take(values, index, mode="fill", fill_value=jnp.nan)
    time = start(path, eps, x)
    closing = total(jnp.take(expected_log_decoder(path, time, values), index))
    return added_up(key, path, bound(predict, cond), x, time, num_times, closing)


def added_up(key, path, predict, x, time, num_times, closing) -> Elbo:
    """The bound from its three terms."""
    diffusion, stderr = diffusion_loss(key, path, predict, x, eps=time, num_times=num_times)
    prior = prior_kl(path, x)
    nfe = jnp.full(x.shape[:1], num_times)
    return Elbo(closing - diffusion - prior, stderr, closing, diffusion, prior, nfe)


def diffusion_loss(
    key: Array,
    path: AffinePath,
    predict: PredictFn,
    x: Array,
    *,
    eps: float | Array | None = None,
    num_times: int = 64,
) -> tuple[Array, Array]:
    """`int E |z - eps(x_t, t)|^2 dlam` from lam(t1) to lam(eps), and its standard error: `(B,)`.

    The range of lam is divided into `num_times / 2` equal cells. In every cell each example draws
    two places, each with its own noise. The two are independent, so half the square of their
    difference is an unbiased variance. A common offset of all cells would not give one.

    Where x_t is close to the data, eps is close to 0, and most of the variance is that of `|z|^2`,
    2 D. Its mean D is known, so `beta (|z|^2 - D)` is subtracted as a control variate. The beta of
    a cell is `(z (z - eps) / |z|^2)^2` from the cell below, which is independent, so the estimate
    stays unbiased.

    Raises:
        ValueError: for a number of times that is odd or below 2.
    """
    if num_times < 2 or num_times % 2:
        raise ValueError(f"num_times is {num_times}; take an even number, two for each cell.")
    if key.ndim == 0:
        key = jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(x.shape[0]))
    time, cells, dims = start(path, eps, x), num_times // 2, x[0].size
    low, high = path.lam(jnp.asarray(path.t1, x.dtype)), path.lam(time)
    width = (high - low) / cells

    def draw(k: Array):
        for_time, for_noise = split(fold_in(key, k), 2)
        place = jax.vmap(lambda k: jax.random.uniform(k, dtype=x.dtype))(for_time)
        t = path.t_of_lam(low + width * (k // 2 + place))
        t = jnp.clip(t, time, path.t1)
        z = normal_like(for_noise, x)
        error = z - predict(path.marginal(x, z, t), t).eps
        return total(error**2), total(z * error), total(z**2)

    by_cell = lambda v: v.reshape(cells, 2, x.shape[0])
    square, along, length = map(by_cell, jax.lax.map(draw, jnp.arange(num_times)))
    share = jnp.clip(jnp.sum(along, axis=1) / jnp.sum(length, axis=1), 0.0, 1.0)
    beta = jnp.concatenate([jnp.zeros_like(share[:1]), share[:-1] ** 2])[:, None]
    square = square - beta * (length - dims)
    variance = jnp.sum((square[:, 0] - square[:, 1]) ** 2, axis=0) / 4.0
    return width * jnp.sum(jnp.mean(square, axis=1), axis=0), width * jnp.sqrt(variance)


def prior_kl(path: AffinePath, x: Array) -> Array:
    """`KL( N(a x, c^2 I) || N(0, s^2 I) )` at t1, s the law's `prior_std`, in nats: `(B,)`."""
    a, c = path.coeffs(jnp.asarray(path.t1, x.dtype))
    std = path.prior_std().astype(x.dtype)
    excess = (c / std) ** 2 - 1.0
    return 0.5 * (total((a * x / std) ** 2) + x[0].size * (excess - jnp.log1p(excess)))
