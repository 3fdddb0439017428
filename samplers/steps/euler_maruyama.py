"""Euler-Maruyama on the reverse SDE (Song et al. 2021, appendix D), and Euler on its flow ODE."""

from samplers.base import Kernel, Sampler, State, drawn, start
from sde_lib import check_data_left, expand, flow_drift, reverse_drift
from sde_lib.base import SDE
from sde_lib.reverse import noise_term


def euler_maruyama(path: SDE, probability_flow: bool = False) -> Sampler:
    """`x_s = x - h [f - G G^T score] + sqrt(h) G z` with h = t - s, the spacing of the grid.

    Works for any law, also with a state-dependent diffusion. `probability_flow` halves the score
    and leaves out the noise, which gives the plain Euler method of order 1.
    """
    check_data_left(path, "the drift a' / a")
    drift_of = flow_drift if probability_flow else reverse_drift

    def mean(predict, x, span):
        drift = drift_of(path, lambda x, t: predict(x, t).score)(x, span.t)
        return x - expand(span.t - span.s, x) * drift

    def flow_step(key, predict, state, span):
        del key
        return State(mean(predict, state.x, span))

    def matrix_step(key, predict, state, span):
        x, root = state.x, expand((span.t - span.s) ** 0.5, state.x)
        z = path.noise(key, x)
        return State(mean(predict, x, span) + root * noise_term(path, x, span.t, z))

    def kernel(predict, state, span):
        x, root = state.x, expand((span.t - span.s) ** 0.5, state.x)
        g = expand(path.diffusion(x, span.t), x)
        return Kernel(mean(predict, x, span), root * g)

    if probability_flow:
        return Sampler(start, flow_step, nfe=1)
    if path.diffusion_type == "matrix":
        # The noise mixes coordinates, so an elementwise std (a `Kernel`) cannot describe the step.
        return Sampler(start, matrix_step, nfe=1)
    return drawn(path, kernel)
