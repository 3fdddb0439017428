"""The shape of every sampler, and the one scan that drives the fixed-step ones.

A sampler is two pure functions from a state to a state. `step` receives the prediction *function*,
so a two-stage method calls that function twice. Time runs down a grid `ts` from noise to data: a
step goes from the current time `t` to the next time `s < t`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from sde_lib import SDE, fold_in, normal_logp, rows, total
from sde_lib.prediction import Cond, PredictFn, bound


class State(NamedTuple):
    """The current `x` `(B, ...)` and the method's memory, which is empty for most methods."""

    x: Array
    memory: Any = ()


def stay(x: Array, t: Array) -> Array:
    """The `enter` of a method that starts from a draw of the prior unchanged."""
    del t
    return x


class Span(NamedTuple):
    """Step i of the n steps of a run (i from 0), from time t down to s <= t, each `()` or `(B,)`.

    i may be traced. A method whose steps depend on their number, such as one that lowers its order
    at the end of a grid, reads i and n here. The method can thus be built without knowing the
    length of the grid.
    """

    t: Array
    s: Array
    i: Array | int = 0
    n: int = 1


class Kernel(NamedTuple):
    """The law of x after a step of a stochastic method, given the state before:
    `N(mean, std^2)`, both `(B, ...)` or broadcasting to it, and the method's memory after the step.
    """

    mean: Array
    std: Array
    memory: Any = ()

    def log_density(self, x: Array) -> Array:
        """Log density at x `(B, ...)` in nats, summed over all axes but the first: `(B,)`."""
        return total(normal_logp((x - self.mean) / self.std, self.std))


KernelFn = Callable[[PredictFn, State, Span], Kernel]


class Sampler(NamedTuple):
    """A fixed-step method.

    `init(x, t) -> State` makes the method's memory and leaves x alone, so a run may be resumed from
    any state; `step(key, predict, state, span) -> State`; `nfe` is the number of evaluations of
    `predict` that one step makes. `enter(x, t) -> x` turns a draw of the prior into the method's
    own start; the driver calls `enter` once, at the first node (`begin`).

    `kernel(predict, state, span) -> Kernel` is the law from which `step` draws, if that law is one
    normal distribution. `kernel` is None for other methods: solvers of an ODE, and methods that
    draw several times in a step.
    """

    init: Callable[[Array, Array], State]
    step: Callable[[Array, PredictFn, State, Span], State]
    nfe: int
    enter: Callable[[Array, Array], Array] = stay
    kernel: KernelFn | None = None


class SampleResult(NamedTuple):
    """The result of a run.

    `x` `(B, ...)` is the end state; `trace` the stacked outputs of `collect` after the steps; `nfe`
    the evaluations of the network for one sample, a number or `(B,)`; `failed` `(B,)` marks the
    examples that are not finite or whose adaptive solve did not reach the end (see `finished`);
    `ts` the nodes of a fixed-step method.
    """

    x: Array
    trace: Any
    nfe: Array
    failed: Array | bool = False
    ts: Array | None = None


def finished(
    x: Array, trace: Any, nfe: Array, failed: Array | bool = False, ts: Array | None = None
) -> SampleResult:
    """The result of a run, with every example that is not finite marked as failed."""
    return SampleResult(x, trace, nfe, has_failed(x, failed), ts)


@jax.jit
def has_failed(x: Array, failed: Array | bool) -> Array:
    """Which examples have failed or are not finite, `(B,)`. The function is jitted, so that a call
    outside `jit` compiles one program and not three."""
    return failed | ~finite(x)


def finite(x: Array) -> Array:
    """Which examples of x `(B, ...)` are finite throughout, `(B,)`."""
    return jnp.all(jnp.isfinite(rows(x)), axis=1)


class SampleFn(Protocol):
    """A whole run, `(key, predict, x, cond=None) -> SampleResult`, from x `(B, ...)` at t1.

    cond is the condition of each example that `predict` receives, see `sde_lib.prediction.Cond`. A
    method that solves examples one by one passes each example its own condition.
    """

    def __call__(
        self, key: Array, predict: PredictFn, x: Array, cond: Cond = None
    ) -> SampleResult: ...


def start(x: Array, t: Array) -> State:
    """The `init` of a method without memory."""
    del t
    return State(x)


def drawn(law: SDE, kernel: KernelFn, init: Callable = start, nfe: int = 1) -> Sampler:
    """The stochastic method of a kernel: `x_s = mean + std z`, where z is the law's noise."""

    def step(key: Array, predict: PredictFn, state: State, span: Span) -> State:
        mean, std, memory = kernel(predict, state, span)
        return State(mean + std * law.noise(key, mean), memory)

    return Sampler(init, step, nfe, kernel=kernel)


def mean_of(kernel: KernelFn, init: Callable = start, nfe: int = 1) -> Sampler:
    """The deterministic method of a kernel, without its noise: `x_s = mean`."""

    def step(key: Array, predict: PredictFn, state: State, span: Span) -> State:
        del key
        mean, _, memory = kernel(predict, state, span)
        return State(mean, memory)

    return Sampler(init, step, nfe)


def begin(sampler: Sampler, x: Array, t: Array) -> State:
    """The first state of a run from x, a draw of the prior at t."""
    return sampler.init(sampler.enter(x, t), t)


def sample(
    key: Array,
    predict: PredictFn,
    sampler: Sampler,
    x: Array,
    ts: Array,
    collect: Callable[[State], Any] | None = None,
    denoise: bool = False,
    frames: int | None = None,
    *,
    cond: Cond = None,
    remat: bool = False,
) -> SampleResult:
    """Run a fixed-step sampler down a time grid.

    Args:
        key: one key, or one per example; step i draws from `fold_in(key, i)`.
        x: the start at `ts[0]`, `(B, ...)`.
        ts: `(N + 1,)` falling times, or `(N + 1, B)`, one grid per example.
        collect: `State -> pytree`, what to keep of the state after each step.
        denoise: end with the conditional mean of the data, `predict(x, ts[-1]).x0` (Tweedie's
            formula), which costs one more evaluation. Without it the samples carry the noise of
            the law at `ts[-1]`.
        frames: the number of steps whose `collect` output is kept, chosen by `spread`. None keeps
            the output of every step, and needs the memory for it.
        cond: the condition of each example, see `sde_lib.prediction.Cond`.
        remat: if the run is differentiated in reverse, keep only the states between steps and
            recompute the inside of each step on the backward pass (`jax.checkpoint`). Memory falls
            from that of all steps to that of one, for one more evaluation of each step.
    """
    n, predict = ts.shape[0] - 1, bound(predict, cond)

    def step(state: State, inputs) -> State:
        i, t, s = inputs
        return sampler.step(fold_in(key, i), predict, state, Span(t, s, i, n))

    if remat:
        # Inside a scan, XLA cannot merge the second evaluation with the first.
        step = jax.checkpoint(step, prevent_cse=False)
    steps = (jnp.arange(n), ts[:-1], ts[1:])
    state, trace = walk(step, begin(sampler, x, ts[0]), steps, collect, frames)
    nfe = n * sampler.nfe
    if denoise:
        x = predict(state.x, ts[-1]).x0
        return finished(x, trace, jnp.asarray(nfe + 1), ts=ts)
    return finished(state.x, trace, jnp.asarray(nfe), ts=ts)


def walk(
    step: Callable[[State, Any], State],
    state: State,
    inputs: Any,
    collect: Callable[[State], Any] | None = None,
    frames: int | None = None,
) -> tuple[State, Any]:
    """One `lax.scan` of `step` over the rows of `inputs`: the last state and the collected outputs.

    With `frames`, the scan carries a buffer of that many outputs. The memory is that of the buffer
    and not that of all steps.
    """

    def body(state: State, row):
        state = step(state, row)
        return state, (collect(state) if collect else None)

    n = len(jax.tree.leaves(inputs)[0])
    if collect is None or frames is None:
        return jax.lax.scan(body, state, inputs)
    shown = spread(n, frames)
    if frames >= n:
        state, trace = jax.lax.scan(body, state, inputs)
        return state, jax.tree.map(lambda v: v[shown], trace)
    # The place of each step's frame in the buffer. A step without a frame gets the index one past
    # the end, and its write is dropped.
    places = np.full(n, frames)
    places[shown] = np.arange(frames)
    empty = jax.tree.map(
        lambda v: jnp.zeros((frames, *v.shape), v.dtype), jax.eval_shape(collect, state)
    )

    def keeping(carry, row):
        (state, kept), (place, row) = carry, row
        state, seen = body(state, row)
        put = lambda buffer, v: buffer.at[place].set(v, mode="drop")
        return (state, jax.tree.map(put, kept, seen)), None

    (state, kept), _ = jax.lax.scan(keeping, (state, empty), (jnp.asarray(places), inputs))
    return state, kept


def spread(steps: int, frames: int) -> np.ndarray:
    """Indices of `frames` steps, even from the first to the last `(frames,)`.

    Indices repeat if there are fewer steps than frames.
    """
    return np.linspace(0, steps - 1, frames).round().astype(int)


def chain(*samplers: Sampler) -> Sampler:
    """Run several methods in each step, one after the other on the same `x`.

    Each method keeps a memory of its own. All methods get the same span: a predictor moves from t
    to s, and a corrector stays at the time that it was built for (see `steps/corrector.py`).

    Raises:
        ValueError: if two of the methods change the start (`enter`), which may happen only once.
    """
    enters = [sampler.enter for sampler in samplers if sampler.enter is not stay]
    if len(enters) > 1:
        raise ValueError(
            f"{len(enters)} methods of a chain complete its start, which is completed once; wrap "
            "all its parts in one call, as impute(path, operator, y, predictor, corrector)."
        )

    def init(x: Array, t: Array) -> State:
        return State(x, tuple(sampler.init(x, t).memory for sampler in samplers))

    def kernel(predict: PredictFn, state: State, span: Span) -> Kernel:
        found = samplers[0].kernel(predict, State(state.x, state.memory[0]), span)
        return found._replace(memory=(found.memory,))

    def step(key: Array, predict: PredictFn, state: State, span: Span) -> State:
        x, memories = state.x, []
        for i, (sampler, memory) in enumerate(zip(samplers, state.memory)):
            x, memory = sampler.step(fold_in(key, i), predict, State(x, memory), span)
            memories.append(memory)
        return State(x, tuple(memories))

    nfe, enter = sum(sampler.nfe for sampler in samplers), enters[0] if enters else stay
    # Two draws in a row have no normal density in general, so only a lone method keeps its kernel.
    alone = len(samplers) == 1 and samplers[0].kernel is not None
    return Sampler(init, step, nfe, enter, kernel if alone else None)
