"""Euler-Maruyama on the reverse SDE (Song et al. 2021, appendix D), and Euler on its flow ODE."""

from samplers.base import Sampler, State, start
from sde_lib import check_data_left, expand, flow_drift, reverse_drift
from sde_lib.base import SDE
from sde_lib.reverse import noise_term


def euler_maruyama(path: SDE, probability_flow: bool = False) -> Sampler:
    """`x_s = x - h [f - G G^T score] + sqrt(h) G z` with h = t - s, the grid's own spacing.

    Works for any law, state-dependent diffusion included. With `probability_flow` half the score
    and no noise: the plain Euler method, of order 1.
    """
    check_data_left(path, "the drift a' / a")
    drift_of = flow_drift if probability_flow else reverse_drift

    def step(key, predict, state, t, s):
        x = state.x
        drift = drift_of(path, lambda x, t: predict(x, t).score)(x, t)
        x_mean = x - expand(t - s, x) * drift
        if probability_flow:
            return State(x_mean)
        z = path.noise(key, x)
        return State(x_mean + expand((t - s) ** 0.5, x) * noise_term(path, x, t, z))

    return Sampler(start, step, nfe=1)
