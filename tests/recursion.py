"""Exact mean and variance of each stochastic sampler's output on one-dimensional Gaussian data.

With the exact score every step is affine in x, so mean and variance follow a scalar recursion. The
recursion is written here in NumPy from the papers' formulas, coefficients included, for a step of
any size. Nothing comes from the project.
"""

from itertools import pairwise

import numpy as np
from scipy.special import erf

MEAN, STD = 0.7, 0.4
EPS = {"vp": 1e-3, "subvp": 1e-3, "ve": 1e-5}
PRIOR_STD = {"vp": 1.0, "subvp": 1.0, "ve": 50.0}
SNR = 0.16


class Level:
    """A law at one time: `a, c, f, g2`, and the variance `v` of x_t."""

    def __init__(self, law, t):
        beta, B = 0.1 + 19.9 * t, 0.1 * t + 0.5 * 19.9 * t**2
        a = np.exp(-B / 2)
        self.a, self.c, self.f, self.g2 = {
            "vp": (a, np.sqrt(-np.expm1(-B)), -beta / 2, beta),
            "subvp": (a, -np.expm1(-B), -beta / 2, -beta * np.expm1(-2 * B)),
            "ve": (1.0, s := 0.01 * 5000.0**t, 0.0, 2 * np.log(5000.0) * s**2),
        }[law]
        self.v = self.a**2 * STD**2 + self.c**2
        # score = (a MEAN - x) / v, conditional mean of the data = MEAN + a STD^2 / v (x - a MEAN)
        self.x0_gain = self.a * STD**2 / self.v


def conditioned(now, then):
    """Return gain on x0, gain on x_t and variance of x_s given (x0, x_t).

    They follow from conditioning the joint Gaussian, with `cov(x_s, x_t | x0) = r c_s^2` for the
    forward kernel `x_t = r x_s + noise`.
    """
    r = now.a / then.a
    K = r * then.c**2 / now.c**2
    return then.a - K * now.a, K, then.c**2 - K**2 * now.c**2


def with_x0_hat(now, x0_gain, x_gain):
    """Return `x0_gain x0_hat + x_gain x` as (gain, shift) of x."""
    return x_gain + x0_gain * now.x0_gain, x0_gain * MEAN * (1 - now.x0_gain * now.a)


def step_euler_maruyama(now, then, h):
    """`x - h (f x - g^2 score) + sqrt(h) g z`."""
    return 1 - h * (now.f + now.g2 / now.v), h * now.g2 * now.a * MEAN / now.v, h * now.g2


def step_reverse_diffusion(now, then, h):
    """`x - f_i + G_i^2 score + G_i z` for the forward chain `x_t = x_s + f_i(x_s) + G_i z`."""
    r = now.a / then.a
    G2 = now.c**2 - r**2 * then.c**2
    return 2 - r - G2 / now.v, G2 * now.a * MEAN / now.v, G2


def step_posterior(now, then, h):
    """A draw from q(x_s | x_t, x0_hat)."""
    x0_gain, x_gain, variance = conditioned(now, then)
    return *with_x0_hat(now, x0_gain, x_gain), variance


def step_forward_variance(now, then, h):
    """The mean of `step_posterior` with the variance of the forward step: DDPM's beta for VP."""
    gain, shift, _ = step_posterior(now, then, h)
    return gain, shift, now.c**2 - (now.a / then.a) ** 2 * then.c**2


def step_ddim(eta):
    """`a x0_hat + sqrt(c^2 - std^2) eps_hat + std z`, std^2 = eta^2 times the posterior's."""

    def step(now, then, h):
        variance = eta**2 * conditioned(now, then)[2]
        kept = np.sqrt(then.c**2 - variance)
        return *with_x0_hat(now, then.a - kept * now.a / now.c, kept / now.c), variance

    return step


def ald_size(mean, var, level):
    """`(snr c)^2`."""
    return (SNR * level.c) ** 2


def langevin_size(mean, var, level):
    """`(snr E|z| / E|score|)^2`, the limit of batch-averaged norms; x is Gaussian."""
    m, s = (mean - level.a * MEAN) / level.v, np.sqrt(var) / level.v
    folded = s * np.sqrt(2 / np.pi) * np.exp(-(m**2) / (2 * s**2)) + m * erf(m / (s * np.sqrt(2)))
    return (SNR * np.sqrt(2 / np.pi) / folded) ** 2


def recursion(law, ts, predict_step, corrector_size=None, order="paper"):
    """Return the exact mean and variance of a sampler's output."""
    mean, var = 0.0, PRIOR_STD[law] ** 2
    for t, s in pairwise(ts):
        now, then = Level(law, t), Level(law, s)

        def predict(mean, var, now=now, then=then, h=t - s):
            gain, shift, noise = predict_step(now, then, h)
            return gain * mean + shift, gain**2 * var + noise

        def correct(mean, var, now=now, then=then):
            level = then if order == "paper" else now
            for _ in range(2):
                alpha = (now.a / then.a) ** 2
                e = 2 * alpha * corrector_size(mean, var, level)
                gain = 1 - e / level.v
                mean, var = gain * mean + e * level.a * MEAN / level.v, gain**2 * var + 2 * e
            return mean, var

        parts = [predict] if corrector_size is None else [predict, correct]
        for part in parts if order == "paper" else parts[::-1]:
            mean, var = part(mean, var)
    return mean, var


def data_moments(law):
    """Return mean and variance of x_eps, the target of a sampler without a denoising step."""
    level = Level(law, EPS[law])
    return level.a * MEAN, level.v
