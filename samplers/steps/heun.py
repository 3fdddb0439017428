"""Heun's method on the probability-flow ODE (Karras et al. 2022, algorithm 1), of order 2."""

from samplers.base import Sampler, State, start
from sde_lib import expand
from sde_lib.base import SDE


def heun(path: SDE) -> Sampler:
    """`x_s = x - h (v(x, t) + v(x - h v(x, t), s)) / 2`, two evaluations a step."""
    del path  # the velocity is the prediction's own

    def step(key, predict, state, span):
        t, s = span.t, span.s
        del key
        x, h = state.x, expand(t - s, state.x)
        v = predict(x, t).velocity
        return State(x - 0.5 * h * (v + predict(x - h * v, s).velocity))

    return Sampler(start, step, nfe=2)
