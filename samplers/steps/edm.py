"""The stochastic sampler of Karras et al. 2022 (algorithm 2), for any affine law."""

import jax.numpy as jnp

from samplers.base import Sampler, State, start
from sde_lib import AffinePath, check_data_left, expand
from sde_lib.ranges import not_negative, positive


def edm(
    path: AffinePath,
    s_churn: float = 0.0,
    s_tmin: float = 0.0,
    s_tmax: float = 1e6,
    s_noise: float = 1.0,
    eta: float = 0.0,
) -> Sampler:
    """Added noise and then a step of Heun, both in `y = x / a` over `sigma = c / a`.

        sigma_hat = up sigma,   y_hat = y + S_noise sqrt(sigma_hat^2 - sigma^2) z
        d = eps(y_hat, sigma_hat),       y_e = y_hat + (sigma_s - sigma_hat) d
        y_s = y_hat + (sigma_s - sigma_hat) (d + eps(y_e, sigma_s)) / 2

    The paper's strength gives `up = 1 + min(S_churn / n, sqrt(2) - 1)`, where n is the number of
    steps of the run; eta gives `up = exp(eta h)`, `h = lam_s - lam_t`. Noise is added only for
    sigma in [S_tmin, S_tmax]. sigma_hat is at most the sigma of t1, since no network was trained
    beyond. (The paper has no such bound; its S_tmax of 50 for images has the same effect.) The
    paper's last step to sigma = 0, of order 1, is the denoising of `sample`. Without noise the
    method is Heun's, of order 2 in (sigma, y).

    eta is the strength of `exponential/integrals.py`, 0 the ODE and 1 the reverse SDE: in the limit
    of small steps `sigma_hat^2 - sigma^2 = 2 eta sigma^2 h`, the noise of that SDE. On data at one
    point a step of any length forgets its start by `exp(-eta h)`, as that SDE does. The paper's
    churn is the strength `log(1 + S_churn / n) / h`, which varies over a grid that is not even in
    lam; for many steps even in lam it is `S_churn / log(sigma_max / sigma_min)`.

    Args:
        s_churn: the paper's strength of the noise, over all steps; 0 switches it off.
        s_tmin, s_tmax: noise levels sigma = c / a between which noise is added.
        s_noise: size of the noise; 1 is that of the law.
        eta: the strength shared with other samplers, in place of s_churn.

    Raises:
        ValueError: for a negative churn or eta, or for both.
    """
    check(s_churn, eta)
    positive(s_tmax=s_tmax, s_noise=s_noise)
    not_negative(s_tmin=s_tmin)
    check_data_left(path, "x / a, in which this method steps,")

    def churned(key, x, span):
        """`(y_hat, sigma_hat, t_hat)`."""
        t, s = span.t, span.s
        y, sigma = x / expand(path.coeffs(t).a, x), path.sigma(t)
        if s_churn == 0.0 and eta == 0.0:
            return y, sigma, t
        churn = 1.0 + jnp.minimum(s_churn / span.n, 2.0**0.5 - 1.0)
        up = jnp.exp(eta * (path.lam(s) - path.lam(t))) if eta > 0.0 else churn
        top = path.sigma(jnp.asarray(path.t1, sigma.dtype))
        inside = (sigma >= s_tmin) & (sigma <= s_tmax) & (s < t)
        hat = jnp.where(inside, jnp.minimum(up * sigma, top), sigma)
        # At sigma = top rounding may leave hat below sigma.
        hat = jnp.maximum(hat, sigma)
        spread = s_noise * jnp.sqrt((hat - sigma) * (hat + sigma))
        t_hat = jnp.where(hat > sigma, path.t_of_sigma(hat), t)
        return y + expand(spread, x) * path.noise(key, x), hat, t_hat

    def step(key, predict, state, span):
        t, s = span.t, span.s
        x = state.x
        y, sigma, t_hat = churned(key, x, span)
        h = expand(path.sigma(s) - sigma, x)
        d = predict(expand(path.coeffs(t_hat).a, x) * y, t_hat).eps
        a_s = expand(path.coeffs(s).a, x)
        moved = a_s * (y + 0.5 * h * (d + predict(a_s * (y + h * d), s).eps))
        # Grids are padded with steps of length zero, which must leave x unchanged.
        return State(jnp.where(expand(jnp.asarray(s < t), x), moved, x))

    return Sampler(start, step, nfe=2)


def check(s_churn: float, eta: float) -> None:
    not_negative(s_churn=s_churn, eta=eta)
    if eta > 0.0 and s_churn > 0.0:
        raise ValueError(
            f"eta is {eta} and s_churn {s_churn}, two measures of the same noise; set one to 0."
        )
