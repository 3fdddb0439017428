"""The states of a sampling run and the denoiser's output at each, without further evaluations.

The step of a method begins with an evaluation of the network at its own state; the `x0` of this
evaluation is the denoiser's output there. The recorder keeps it. A recorded run therefore makes the
same evaluations as any other run, and one more at its end.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from samplers.base import Sampler, Span, State, sample
from sde_lib.prediction import PredictFn


class Recording(NamedTuple):
    """The nodes of a run of N steps, from noise to data, with its end.

    `t` `(N + 1,)`, or `(N + 1, B)`; `x` `(N + 1, B, ...)`, the states; `x0` `(N + 1, B, ...)`, the
    conditional means of the data given x; `nfe`, evaluations of the network for one sample.
    """

    t: Array
    x: Array
    x0: Array
    nfe: Array


class _Seen(NamedTuple):
    """The memory of the recorded method, and the first evaluation of its last step."""

    memory: Any
    t: Array
    x: Array
    x0: Array


def record(key: Array, predict: PredictFn, sampler: Sampler, x: Array, ts: Array) -> Recording:
    """Run `sample` and record every node.

    A node is the point of the first evaluation of a step. It is the state of the method; if the
    step begins with added noise or a corrector, it is the state after that.

    Raises:
        ValueError: for a method that evaluates the network only inside a loop of its own.
    """
    kept = lambda state: (state.memory.t, state.memory.x, state.memory.x0)
    result = sample(key, predict, recorder(sampler), x, ts, kept)
    last = (ts[-1], result.x, predict(result.x, ts[-1]).x0.astype(x.dtype))
    nodes = (jnp.concatenate([seen, end[None]]) for seen, end in zip(result.trace, last))
    return Recording(*nodes, result.nfe + 1)


def recorder(sampler: Sampler) -> Sampler:
    """The same method, whose memory also holds the first evaluation of its last step."""

    def init(x: Array, t: Array) -> State:
        state = sampler.init(x, t)
        return State(state.x, _Seen(state.memory, jnp.asarray(t), x, jnp.zeros_like(x)))

    def step(key: Array, predict: PredictFn, state: State, span: Span) -> State:
        here, seen = jax.core.get_opaque_trace_state(), []

        def watched(x: Array, u: Array):
            prediction = predict(x, u)
            # Values that are traced inside a loop of the step cannot be used outside the loop.
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
