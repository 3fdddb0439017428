"""The states of a sampling run and what the network said of each, without asking it twice.

Every method's step begins with an evaluation at its own state, whose `x0` is the denoiser's output
there. It is kept as it passes, so a recorded run makes the same evaluations as a run without, and
one more at its end.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from samplers.base import Sampler, Span, State, sample
from sde_lib.prediction import PredictFn


class Recording(NamedTuple):
    """The nodes of a run, from noise to data, the end included.

    `t` `(N + 1,)`, or `(N + 1, B)`; `x` and `x0` `(N + 1, B, ...)`, the state and the conditional
    mean of the data given it; `nfe`, evaluations made for one sample.
    """

    t: Array
    x: Array
    x0: Array
    nfe: Array


class _Seen(NamedTuple):
    """A method's own memory, and the first evaluation of its last step."""

    memory: Any
    t: Array
    x: Array
    x0: Array


def record(key: Array, predict: PredictFn, sampler: Sampler, x: Array, ts: Array) -> Recording:
    """`sample`, with every node kept.

    A node is where the method evaluated the network first in a step: its state, or for a step that
    begins by adding noise or by a corrector the state after that.

    Raises:
        ValueError: for a method that evaluates the network nowhere but inside a loop of its own.
    """
    kept = lambda state: (state.memory.t, state.memory.x, state.memory.x0)
    result = sample(key, predict, recorder(sampler), x, ts, kept)
    last = (ts[-1], result.x, predict(result.x, ts[-1]).x0.astype(x.dtype))
    nodes = (jnp.concatenate([seen, end[None]]) for seen, end in zip(result.trace, last))
    return Recording(*nodes, result.nfe + 1)


def recorder(sampler: Sampler) -> Sampler:
    """The same method, whose memory holds the first evaluation of its last step besides its own."""

    def init(x: Array, t: Array) -> State:
        state = sampler.init(x, t)
        return State(state.x, _Seen(state.memory, jnp.asarray(t), x, jnp.zeros_like(x)))

    def step(key: Array, predict: PredictFn, state: State, span: Span) -> State:
        here, seen = jax.core.get_opaque_trace_state(), []

        def watched(x: Array, u: Array):
            prediction = predict(x, u)
            # What a loop inside the step computes cannot leave it.
            if not seen and jax.core.get_opaque_trace_state() == here:
                seen.append((u, x, prediction.x0))
            return prediction

        after = sampler.step(key, watched, State(state.x, state.memory.memory), span)
        if not seen:
            raise ValueError(
                "The sampler evaluates the network nowhere but inside a loop of its own, from "
                "which nothing can be recorded; record a predictor, alone or beside the corrector."
            )
        u, x, x0 = seen[0]
        u = jnp.broadcast_to(jnp.asarray(u, span.t.dtype), span.t.shape)
        return State(after.x, _Seen(after.memory, u, x.astype(state.x.dtype), x0.astype(x.dtype)))

    return Sampler(init, step, sampler.nfe, sampler.enter)
